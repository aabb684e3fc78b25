"""Files that are whole or absent, and what killed processes leave."""

import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext

import pytest

from hmsa_mmseg.utils import atomic_file, files, write_json
from hmsa_mmseg.utils.files import part_file, remove_stale_parts


def refuse(part):
    assert part.read_bytes() == b'new'
    raise ValueError('not this one')


@pytest.mark.parametrize(
    ('check', 'content', 'error'),
    [
        (None, b'new', None),
        (refuse, b'new', ValueError),
        (None, 'no bytes', TypeError),
    ],
)
@pytest.mark.fault(
    'what is written is refused or fails',
    'the old file stays, no part is left',
)
def test_a_file_is_whole_or_the_old_one(tmp_path, check, content, error):
    path = tmp_path / 'new' / 'file'
    write_json(path, ['old'])
    before = path.read_bytes()
    refused = pytest.raises(error) if error else nullcontext()
    with refused, atomic_file(path, check=check) as file:
        part = part_file(path)
        assert part.exists()
        # Of one process, and hidden.
        assert f'.{files._HOST}.{os.getpid()}.part' in part.name
        assert part.name.startswith('.')
        file.write(content)
    assert path.read_bytes() == (before if error else content)
    assert os.listdir(path.parent) == ['file']
    # As open() gives them, not the private ones of a temporary file.
    other = tmp_path / 'other'
    other.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == stat.S_IMODE(other.stat().st_mode)
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_json(path, float('nan'))
    assert json.loads(before) == ['old']


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


def test_parts_of_long_names(tmp_path):
    name = 'x' * 246 + '_prob.png'
    with atomic_file(tmp_path / name) as file:
        file.write(b'1')
        (part,) = tmp_path.glob('.*.part')
    dead = tmp_path / part.name.replace(str(os.getpid()), '99999999')
    dead.touch()
    remove_stale_parts([tmp_path / name])
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.fault(
    'parts of files of processes that have ended',
    'removed; those of running processes stay',
)
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
    # Of files that all machines write, what another has just begun stays.
    new, old = (
        tmp_path / f'.a.png.another-machine.{pid}.part' for pid in (1, 2)
    )
    for part in (new, old):
        part.touch()
    os.utime(old, (1, 1))
    remove_stale_parts(own, shared=True)
    assert {p.name for p in tmp_path.iterdir()} == {*kept, new.name}
