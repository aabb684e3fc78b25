"""What both tools do the same: go on, end, share their images."""

import datetime
import errno
import os
import shutil
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from PIL import Image

from hmsa_mmseg.prediction.predicting import Predictor

EXPECTED = {}


@pytest.fixture
def expected(either, tree, tmp_path):
    """The files of a run that nothing has disturbed."""
    if either.tool not in EXPECTED:
        either(out='expected')
        EXPECTED[either.tool] = tree(tmp_path / 'expected')
        shutil.rmtree(tmp_path / 'expected')
    return EXPECTED[either.tool]


@pytest.mark.parametrize('change', ['content', 'length', 'copied', 'moved'])
def test_the_same_image(either, images, tmp_path, predicted, change, save):
    """What it is made of counts, in both tools: not its times, nor place."""
    # Without compression: another image of as many bytes.
    for path in [*images.rglob('*.png')]:
        Image.open(path).save(path.with_suffix('.bmp'))
        path.unlink()
    either()
    predicted.clear()
    if change in ('content', 'length'):
        save(images / 'top.bmp', 9, 32, 64 if change == 'content' else 60)
    elif change == 'copied':
        shutil.copytree(images, tmp_path / 'copy')
        shutil.rmtree(images)
        shutil.copytree(tmp_path / 'copy', images)
    else:
        images.rename(tmp_path / 'moved')
    source = tmp_path / 'moved' if change == 'moved' else images
    either(source=source)
    assert predicted == ['top.bmp'] * (change in ('content', 'length'))


@pytest.mark.parametrize('option', ['same', 'other'])
def test_the_same_settings(either, teacher, tmp_path, predicted, option):
    """What results depend on counts, in both tools."""
    either()
    predicted.clear()
    if option == 'other':
        config = tmp_path / 'config.py'
        config.write_text(
            f'_base_ = {str(teacher.config)!r}\n'
            "model = dict(test_cfg=dict(scales=(0.5, 1.0), mode='whole'))\n"
        )
        said = either(config=config, code=1)
        assert 'scales was [0.5, 1.0, 2.0], now it is [0.5, 1.0]' in said
        assert '--overwrite' in said
    else:
        # The same, moved, written in another way.
        checkpoint = tmp_path / 'moved.pth'
        shutil.copy(teacher.checkpoint, checkpoint)
        either(
            *('--threads', '0', '--writers', '1', '--dtype', 'float32'),
            *('--cfg-options', 'model.test_cfg.classes_only=True'),
            checkpoint=checkpoint,
        )
    assert predicted == []


def test_killed(either, fork, kill_at, tmp_path, tree, expected):
    """At any moment; then it goes on to the same files, to the last bit."""
    out = tmp_path / 'out'
    seen = set()
    for moment in (3, 20, 51, 76, 111):
        killed = fork(either.tool, *either.options, prepare=kill_at(moment))
        assert killed() == -signal.SIGKILL
        found = tree(out) if out.exists() else {}
        seen.add(len(found))
        for name, content in found.items():
            # Whole, or under a hidden name; but for lists that are added to.
            is_part = Path(name).name.startswith('.')
            is_list = name.endswith('-of-1.jsonl')
            assert is_part or is_list or content == expected[name], name
            # A label says that its confidence is there.
            prob = name.replace('.png', '_prob.png')
            assert prob not in expected or prob in found
        either()
        assert tree(out) == expected
        shutil.rmtree(out)
    assert len(seen) >= 4


@pytest.mark.parametrize(
    ('moment', 'number'),
    [
        (1, errno.EDQUOT),
        (4, errno.ENOSPC),
        (11, errno.EDQUOT),
        (14, errno.ENOSPC),
    ],
)
def test_full_disk(
    either, monkeypatch, tmp_path, tree, expected, number, moment
):
    """Nothing half written is left; with space the same command goes on."""
    out = tmp_path / 'out'
    fsync, calls, lock = os.fsync, [], threading.Lock()

    def full(descriptor):
        # Folders are synced too, which fails without a word.
        if os.path.isdir(f'/proc/self/fd/{descriptor}'):
            return fsync(descriptor)
        with lock:
            calls.append(descriptor)
            if len(calls) >= moment:
                raise OSError(number, os.strerror(number))
        return fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        said = either(code=28)
    assert os.strerror(number) in said
    assert not list(out.rglob('*.part'))
    if 1 < moment < 12:
        assert 'of 5 images were done now' in said
        assert 'the same command goes on' in said
        # Writers stop: they do not try one file after the other.
        assert len(calls) <= moment + 4
    either()
    assert tree(out) == expected


def test_processes_of_torchrun(either, fork, images, tmp_path, tree):
    """They share the images, and end together, with one status.

    One comes late: the other waits longer than torch would by itself.
    """
    init = dist.init_process_group

    def impatient(*args, timeout=datetime.timedelta(seconds=1), **kwargs):
        init(*args, timeout=timeout, **kwargs)

    def prepare(seconds):
        dist.init_process_group = impatient
        time.sleep(seconds)

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    (images / 'a/1.png').write_bytes(b'')
    waits = [
        fork(
            *(either.tool, *either.options, *either.skip),
            prepare=partial(prepare, 2 * rank),
            RANK=str(rank),
            WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    assert [wait() for wait in waits] == [1, 1]
    found = tree(tmp_path / 'out')
    either(*either.skip, out='one', code=1)
    assert found == tree(tmp_path / 'one')


def test_two_at_once_in_one_folder(either, fork, tmp_path, tree, expected):
    """By mistake, with all images each: nothing is ever half written."""
    waits = [fork(either.tool, *either.options) for _ in range(2)]
    # One may list labels while the other still writes.
    assert {wait() for wait in waits} <= {0, 1}
    either()
    assert tree(tmp_path / 'out') == expected


@pytest.fixture
def heeded():
    """Tests that run in the background of a script inherit an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heeded')
@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals(either, monkeypatch, tmp_path, tree, expected, number, code):
    """The image at hand is done, all is written, and it can go on."""
    before = signal.getsignal(number)
    call = Predictor.__call__
    calls = []

    def signalled(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return call(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, '__call__', signalled)
        said = either(code=code)
    assert f'stopped by {number.name}: the same command goes on' in said
    assert len(calls) == 2
    assert signal.getsignal(number) is before
    found = [name for name in tree(tmp_path / 'out') if name.endswith('g')]
    assert len(found) == 4
    assert all('a/' in name for name in found)
    either()
    assert tree(tmp_path / 'out') == expected
