"""Files that are whole or absent, and what killed processes leave."""

import os
import stat
import subprocess
import sys

import pytest
import torch

from hmsa_mmseg.utils import atomic_file, files
from hmsa_mmseg.utils.files import part_file, remove_stale_parts


class _Unwritable:
    def __reduce__(self):
        raise OSError('half way')


def test_atomic_file_writes_what_torch_save_would(tmp_path):
    path = tmp_path / 'new' / 'file.pth'
    with atomic_file(path) as file:
        torch.save(dict(w=torch.arange(3)), file)
    assert torch.equal(torch.load(path)['w'], torch.arange(3))
    assert os.listdir(path.parent) == ['file.pth']
    # As open() gives them, not the private ones of a temporary file.
    other = tmp_path / 'other'
    other.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == stat.S_IMODE(other.stat().st_mode)


def test_atomic_file_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(b'old')
    refused = pytest.raises(OSError, match='half way')
    with refused, atomic_file(path) as file:
        torch.save(dict(w=torch.ones(9), entry=_Unwritable()), file)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file.pth']


def test_atomic_file_is_checked_first(tmp_path):
    def refuse(part):
        assert part.read_bytes() == b'new'
        assert path.read_bytes() == b'old'
        raise ValueError('not this one')

    path = tmp_path / 'file'
    path.write_bytes(b'old')
    refused = pytest.raises(ValueError, match='not this one')
    with refused, atomic_file(path, check=refuse) as file:
        file.write(b'new')
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


def test_atomic_file_is_on_the_disk_before_it_has_its_name(
    tmp_path, monkeypatch
):
    synced = []
    fsync = os.fsync

    def watch(descriptor):
        target = os.readlink(f'/proc/self/fd/{descriptor}')
        synced.append((os.path.basename(target), path.exists()))
        fsync(descriptor)

    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('needs the names of open files')
    path = tmp_path / 'file'
    monkeypatch.setattr(os, 'fsync', watch)
    with atomic_file(path) as file:
        file.write(b'new')
    part = part_file(path).name
    assert synced == [(part, False), (tmp_path.name, True)]


def test_parts_have_one_owner(tmp_path):
    path = tmp_path / 'a.png'
    part = part_file(path)
    assert part.parent == tmp_path
    assert f'.{os.getpid()}.part' in part.name
    assert files._HOST in part.name
    assert part not in {*tmp_path.glob('*.png')}
    with atomic_file(path) as file:
        file.write(b'1')
        assert part.exists()
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_parts_of_long_names(tmp_path):
    name = 'x' * 246 + '_prob.png'
    with atomic_file(tmp_path / name) as file:
        file.write(b'1')
        (part,) = tmp_path.glob('.*.part')
    dead = tmp_path / part.name.replace(str(os.getpid()), '99999999')
    dead.touch()
    remove_stale_parts([tmp_path / name])
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_stale_parts(tmp_path):
    """Those of dead processes and other machines, of own files alone."""
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    host, running = files._HOST, os.getppid()
    kept = [
        f'.a.png.{host}.{running}.part',
        f'.other.png.{host}.{ended.pid}.part',
        '.a.png.part',
        'a.png',
    ]
    stale = [
        f'.a.png.{host}.{ended.pid}.part',
        f'.a.png.{host}.{os.getpid()}.part',  # a number that comes again
        f'.a.png.another-machine.{running}.part',
        f'.a.png.{ended.pid}.part',  # as atomic_file names them
        f'.b.c.json.{host}.{ended.pid}.part',
    ]
    for name in (*kept, *stale):
        (tmp_path / name).touch()
    own = [tmp_path / 'a.png', tmp_path / 'b.c.json', tmp_path / 'no/x.png']
    remove_stale_parts(own)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_parts_of_files_that_all_machines_write(tmp_path):
    """What another one has just begun stays, what it has left does not."""
    new, old = (
        tmp_path / f'.meta.json.another-machine.{pid}.part' for pid in (1, 2)
    )
    for part in (new, old):
        part.touch()
    os.utime(old, (1, 1))
    remove_stale_parts([tmp_path / 'meta.json'], shared=True)
    assert [*tmp_path.iterdir()] == [new]
