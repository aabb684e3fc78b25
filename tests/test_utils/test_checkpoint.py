"""Checkpoints that may be damaged, large or hostile."""

import errno
import os
import pickle
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from hmsa_mmseg import compat
from hmsa_mmseg.utils import check_crc, safe_load

needs_names = pytest.mark.skipif(
    not compat.loads_by_name(),
    reason='torch < 2.6 takes no names that a file may hold',
)


@pytest.fixture(
    params=[pytest.param('by name', marks=needs_names), 'restricted pickle']
)
def way(request, monkeypatch):
    """Load as new and as old versions of torch have to."""
    by_name = request.param == 'by name'
    monkeypatch.setattr(compat, 'loads_by_name', lambda: by_name)


class _Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class _Call:
    """What calls any function when a file is read."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Pickle wants it, where it stands for the function of another."""


@pytest.mark.usefixtures('way')
@pytest.mark.parametrize('zipped', [True, False])
def test_safe_load_takes_tensors_and_a_numpy_scalar(tmp_path, zipped):
    path = tmp_path / 'file.pth'
    content = dict(state=dict(w=torch.arange(3)), mean_iu=np.float64(0.25))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = safe_load(path)
    assert loaded['mean_iu'] == 0.25
    assert torch.equal(loaded['state']['w'], torch.arange(3))


@pytest.mark.usefixtures('way')
@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
@pytest.mark.fault(
    "numpy's scalar in a checkpoint, under either of its names",
    'read without running code',
)
def test_safe_load_knows_both_names_of_the_scalar(tmp_path, module):
    path = tmp_path / 'file.pth'
    torch.save(np.float64(0.25), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    own_name = np.float64(0).__reduce__()[0].__module__.encode()
    assert own_name in data
    path.write_bytes(data.replace(own_name, f'{module}.multiarray'.encode()))
    assert safe_load(path) == 0.25


@pytest.mark.usefixtures('way')
@pytest.mark.parametrize('zipped', [True, False])
def test_safe_load_runs_no_code(tmp_path, zipped):
    path, touched = tmp_path / 'file.pth', tmp_path / 'touched'
    torch.save(_Payload(touched), path, _use_new_zipfile_serialization=zipped)
    for mapped in (False, zipped):
        with pytest.raises(ValueError, match=r'mkdir, which is not loaded'):
            safe_load(path, mapped=mapped)
    assert not touched.exists()


@pytest.mark.usefixtures('way')
@pytest.mark.parametrize(
    ('value', 'name'),
    [
        # As numpy before 1.25 names them, and as later ones do.
        (np.zeros(2, complex), r'dtype\[complex128\]|Complex128DType'),
        (np.datetime64(1, 'D'), r'dtype\[datetime64\]|DateTime64DType'),
        (_Payload(''), 'mkdir'),
        (_Call(eval, '1'), 'eval'),
        (_Call(getattr, torch.Tensor, 'min'), 'getattr'),
        (_Call(getattr, HistoryBuffer, '__init__'), 'getattr'),
        (
            _Call(
                getattr, _Call(getattr, HistoryBuffer, 'min'), '__globals__'
            ),
            'getattr',
        ),
        # The method itself may be named, not called.
        (_Call(_Call(getattr, HistoryBuffer, 'min'), 1), 'min'),
        (
            _Call(_Call(getattr, _Call(__import__, 'os'), 'mkdir'), 'x'),
            '__import__',
        ),
    ],
)
@pytest.mark.fault(
    'a checkpoint with objects that are not known',
    'refused, with the name of the type or function',
)
def test_safe_load_names_what_it_refuses(tmp_path, value, name):
    path = tmp_path / 'file.pth'
    torch.save(dict(entry=value), path)
    match = rf'file\.pth.* type or function \S*({name}),'
    with pytest.raises(ValueError, match=match):
        safe_load(path)
    with pytest.raises(pickle.UnpicklingError, match='Weights only load'):
        torch.load(path, weights_only=True)


@pytest.mark.usefixtures('way')
@pytest.mark.fault(
    'a checkpoint with methods of its own for HistoryBuffer',
    'read with the known methods',
)
def test_safe_load_lets_no_file_replace_methods_of_the_history(
    tmp_path, monkeypatch
):
    path, history = tmp_path / 'file.pth', HistoryBuffer([1.0, 3.0], [1, 1])
    with monkeypatch.context() as patch:
        methods = HistoryBuffer._statistics_methods
        patch.setitem(methods, 'mean', HistoryBuffer.max)
        history._statistics_methods = dict(methods)
        torch.save(history, path)
    loaded = safe_load(path)
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics('mean') == 2
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2


@needs_names
def test_safe_load_after_torch_has_forgotten_what_is_allowed(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(np.float64(0.25), path)
    torch.serialization.clear_safe_globals()
    assert safe_load(path) == 0.25


def flip_a_bit(path):
    weight = np.arange(3).tobytes()
    data = path.read_bytes()
    assert data.count(weight) == 1
    path.write_bytes(data.replace(weight, weight[:-1] + b'\1'))


@pytest.mark.usefixtures('way')
def test_safe_load_finds_a_flipped_bit(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(dict(w=torch.arange(3)), path)
    flip_a_bit(path)
    # torch.load takes it as it is, and a quick look does.
    assert torch.load(path)['w'].tolist() == [0, 1, 2 + 2**56]
    assert safe_load(path, mapped=True)['w'].tolist() == [0, 1, 2 + 2**56]
    for read in (safe_load, check_crc):
        with pytest.raises(ValueError, match=r'checksum of its entry .*/0 is'):
            read(path)


@pytest.mark.usefixtures('way')
@pytest.mark.fault(
    'a checkpoint cut at any place, or no checkpoint',
    'refused, with its path',
)
def test_files_that_are_cut_or_foreign(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(dict(w=torch.zeros(10**5)), path)
    check_crc(path)
    data = path.read_bytes()
    cuts = (0, 10, 9000, len(data) // 2, -100, -1)
    contents = [data[:cut] for cut in cuts]
    for content in (*contents, b'no checkpoint', b'PK\x03\x04abc'):
        path.write_bytes(content)
        for read in (check_crc, safe_load, partial(safe_load, mapped=True)):
            with pytest.raises(ValueError, match=r'file\.pth: it is damaged'):
                read(path)
    for read in (check_crc, safe_load):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / 'none.pth')
    # A folder, too.
    with pytest.raises(IsADirectoryError, match='is a folder'):
        CheckpointLoader.load_checkpoint(str(tmp_path))


@pytest.mark.usefixtures('way')
def test_errors_of_the_system_are_no_damage(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, 'Input/output error')

    path = tmp_path / 'file.pth'
    torch.save(dict(w=torch.zeros(1)), path)
    for owner, name, read in (
        (torch, 'load', safe_load),
        (zipfile, 'ZipFile', check_crc),
    ):
        monkeypatch.setattr(owner, name, fail)
        with pytest.raises(OSError, match=r'^.Errno 5'):
            read(path)


@pytest.mark.fault(
    'a flipped bit where no checksum looks',
    'refused: an entry says that it is a folder',
)
def test_entry_that_says_it_is_a_folder(tmp_path):
    """By one bit, which no checksum covers; torch reads old memory then."""
    path = tmp_path / 'x.pth'
    torch.save(dict(a=torch.arange(6.0)), path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f'{archive.namelist()[0][:-8]}data/0')
    # Of its record in the directory at the end: 46 bytes, then the name.
    at = content.rfind(entry.filename.encode()) - 46
    assert content[at : at + 4] == b'PK\1\2'
    content[at + 38] |= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match='says that it is a folder'):
        safe_load(path)
