"""Runs of tools/infer.py that go on, are killed, or share their files."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from PIL import Image

from hmsa_mmseg.visualization import read_record, read_records


def test_goes_on(run, images, tmp_path, predicted, tree):
    """What is finished, whole and of the same settings is not done again."""

    def again(*args, **kwargs):
        predicted.clear()
        run(tmp_path / 'images', '--save', 'classes', *args, **kwargs)
        return predicted

    out = tmp_path / 'out'
    assert again('--limit', '2') == ['1.png', '1.jpg']
    assert again() == ['top.png']
    assert again() == []
    (out / 'classes/a/1.png').unlink()
    assert again() == ['1.png']
    (out / 'finished/top.json').write_text('{')
    assert again() == ['top.png']
    Image.open(images[0]).save(images[2])  # another image
    assert again() == ['top.png']
    # Something more is saved; what there is stays good.
    assert again('color') == ['1.png', '1.jpg', 'top.png']
    assert again() == []
    # Other settings.
    before = tree(out)
    assert again('--flip', code=1) == []
    assert again('--scales', '0.5,1', code=1) == []
    assert tree(out) == before
    assert len(again('--flip', '--overwrite')) == 3
    assert again('--flip') == []
    assert len(again('--flip', '--overwrite')) == 3
    # With the color of before, which is of other settings now.
    assert len(again('color', '--flip')) == 3


def test_goes_on_with_a_report(run, images, tmp_path, predicted):
    def again(*args):
        predicted.clear()
        run(tmp_path / 'images', '--save', 'report', *args)
        return predicted

    assert len(again()) == 3
    records = tmp_path / 'out/scale_maps'
    (records / 'a/1/overlay.jpg').unlink()
    assert again() == ['1.png']
    # The same name with another suffix.
    image = images[2].with_suffix('.bmp')
    Image.open(images[2]).save(image)
    images[2].unlink()
    assert again() == ['top.bmp']
    assert read_record(records / 'top.json').image == 'top.bmp'
    assert again() == []
    # A page of two runs would be of none.
    again('--scales', '0.5,1', '--overwrite', '--limit', '2')
    found = read_records(tmp_path / 'out')
    assert [record.image for record in found] == ['a/1.png', 'b/1.jpg']
    assert {record.scales for record in found} == {(0.5, 1.0)}


def test_foreign_folders(run, images, tmp_path):
    mine = tmp_path / 'out/classes/1.png'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    error = run(images[0], code=1)
    assert 'was not written by this program' in error
    assert mine.read_text() == 'mine'
    run(images[0], '--overwrite')
    (tmp_path / 'out/infer.json').write_text('[]')
    assert 'infer.json is damaged' in run(images[0], code=1)


def test_a_folder_of_a_run_with_a_memory_budget(run, images, tmp_path):
    """Written by version 0.1, which had one."""
    run(images[0])
    path = tmp_path / 'out/infer.json'
    settings = json.loads(path.read_text())
    settings['test_cfg']['memory_budget'] = 1e9
    path.write_text(json.dumps(settings))
    before = path.read_text()
    error = run(images[0], code=1)
    assert 'test_cfg was' in error
    assert "'memory_budget': 1000000000.0" in error
    assert '--overwrite' in error
    assert path.read_text() == before


@pytest.mark.parametrize('moment', [1, 2, 4, 5, 9])
def test_killed(run, images, tmp_path, one_thread, tree, fork, moment):
    """A run that is killed goes on to the same files, to the last bit."""
    folder = tmp_path / 'images'
    replace = os.replace

    def kill_at_moment():
        """When this number of files has been written."""
        left = [moment]

        def replacing(*args):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args)

        os.replace = replacing

    wait = fork(folder, prepare=kill_at_moment)
    assert wait() == -signal.SIGKILL
    killed = tree(tmp_path / 'out')
    run(folder)
    run(folder, out='whole')
    whole = tree(tmp_path / 'whole')
    found = tree(tmp_path / 'out')
    # Each process has a part of its own of this file.
    for name in [name for name in found if name.startswith('.infer.json')]:
        assert moment == 1
        del found[name]
    assert found == whole
    assert len(whole) == 1 + 3 * 3
    # No part under a name of its own.
    for name, content in killed.items():
        if not Path(name).name.startswith('.'):
            assert content == whole[name]


def test_two_processes(images, tmp_path, fork):
    """They share the files, and end together when one has skipped some."""
    images[1].write_bytes(images[1].read_bytes()[:-500])
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    waits = [
        fork(
            *(tmp_path / 'images', '--on-error', 'skip'),
            RANK=str(rank),
            WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
    assert [wait() for wait in waits] == [1, 1]
    assert sorted(
        path.relative_to(tmp_path / 'out/classes').as_posix()
        for path in (tmp_path / 'out/classes').rglob('*.png')
    ) == ['a/1.png', 'top.png']


def test_a_share_of_the_files(run, images, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, expected in ((1, ['b/1']), (0, ['a/1', 'b/1', 'top'])):
        monkeypatch.setenv('RANK', str(rank))
        run(tmp_path / 'images', '--save', 'classes')
        found = sorted(
            path.relative_to(tmp_path / 'out/classes').with_suffix('')
            for path in (tmp_path / 'out/classes').rglob('*.png')
        )
        assert [path.as_posix() for path in found] == expected
    monkeypatch.setenv('RANK', '2')
    assert "RANK='2'" in run(tmp_path / 'images', code=1)
