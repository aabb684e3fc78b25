"""Pickles written by hand: what each opcode may do."""

import copyreg
import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import pytest
import torch

from hmsa_mmseg.utils.restricted_pickle import (
    refuse_programs,
    restricted_pickle,
)


class Listed:
    pass


def loads(data):
    module = restricted_pickle([Listed, (dict.fromkeys, 'builtins.getattr')])
    return module.load(io.BytesIO(data), encoding='utf-8')


def text(value):
    return b'X' + struct.pack('<i', len(value)) + value.encode()


OWN = f'c{__name__}\nListed\n'.encode()


@pytest.mark.parametrize(
    'data',
    [
        b'cposix\nmkdir\n' + text('made') + b'\x85R.',
        b'\x80\x04\x8c\x05posix\x8c\x05mkdir\x93' + text('made') + b'\x85R.',
        b'(' + text('made') + b'iposix\nmkdir\n.',
        b'(cposix\nmkdir\n' + text('made') + b'o.',
        b'(' + OWN + b'o.',
        # By a number that some package has given it.
        b'\x82\xf0' + text('made') + b'\x85R.',
        # What a listed function returns is not listed.
        b'c__builtin__\ngetattr\n]\x85R' + text('made') + b'\x85R.',
        b'cbuiltins\ndict\n)\x81.',
        # The state of a class, and of a plain value.
        OWN + b'}' + text('planted') + b'K\x01sb.',
        b'ctorch\nTensor\n}' + text('planted') + b'K\x01sb.',
        text('value') + b'}' + text('planted') + b'K\x01sb.',
        OWN + b')}\x92.',
    ],
)
@pytest.mark.fault(
    'a program in a pickle, with a torch that cannot list names',
    'nothing is called',
)
def test_nothing_is_called_that_is_not_listed(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension('posix', 'mkdir', 240)
    try:
        with pytest.raises((pickle.UnpicklingError, KeyError)):
            loads(data)
    finally:
        copyreg.remove_extension('posix', 'mkdir', 240)
        copyreg.clear_extension_cache()
    assert not [*tmp_path.iterdir()]
    assert not hasattr(Listed, 'planted')
    assert not hasattr(torch.Tensor, 'planted')


@pytest.mark.parametrize('protocol', [2, 5])
def test_what_is_listed_comes_back(protocol):
    mine = Listed()
    mine.entry = (1, {2.5}, b'bytes', None)
    value = OrderedDict(mine=mine, dtype=torch.float16, size=torch.Size([1]))
    found = loads(pickle.dumps(value, protocol))
    assert found['mine'].entry == mine.entry
    assert found['dtype'] is torch.float16
    assert found['size'] == torch.Size([1])


@pytest.mark.fault(
    'a TorchScript or tar file in place of a checkpoint',
    'refused, with its kind',
)
def test_programs_are_refused(tmp_path):
    path = str(tmp_path / 'file.pth')
    torch.save(torch.ones(1), path)
    refuse_programs(path)
    torch.jit.script(torch.nn.ReLU()).save(path)
    with pytest.raises(pickle.UnpicklingError, match='ScriptModule'):
        refuse_programs(path)
    with tarfile.open(path, 'w') as archive:
        archive.addfile(tarfile.TarInfo('storages'))
    with pytest.raises(pickle.UnpicklingError, match='TarFile'):
        refuse_programs(path)
