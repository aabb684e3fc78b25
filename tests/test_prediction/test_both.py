"""What both tools do the same: go on, end, share their images."""

import datetime
import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path

import infer
import pytest
import torch.distributed as dist
from PIL import Image

from hmsa_mmseg.prediction.predictor import Predictor

from .conftest import kill_at, save, tree

EXPECTED = {}


@pytest.fixture
def expected(either, tmp_path):
    """The files of a run that nothing has disturbed."""
    if either.tool not in EXPECTED:
        either(out='expected')
        EXPECTED[either.tool] = tree(tmp_path / 'expected')
        shutil.rmtree(tmp_path / 'expected')
    return EXPECTED[either.tool]


@pytest.mark.fault(
    'an image is replaced by one of as many bytes: infer, autolabel',
    'predicted again; one that was only moved is not',
)
def test_the_same_image(either, images, tmp_path, predicted):
    """What it is made of counts, in both tools: not its times, nor place."""
    # Without compression: another image of as many bytes.
    for path in [*images.rglob('*.png')]:
        Image.open(path).save(path.with_suffix('.bmp'))
        path.unlink()

    def again():
        predicted.clear()
        either(source=images)
        return predicted

    assert len(again()) == 5
    for width in (64, 60):
        save(images / 'top.bmp', 9, 32, width)
        assert again() == ['top.bmp']
    images = shutil.copytree(images, tmp_path / 'copy')
    assert again() == []
    images = images.rename(tmp_path / 'moved')
    assert again() == []


@pytest.mark.fault(
    'infer or autolabel with other settings in the same folder',
    'refused, with what has changed',
)
def test_the_same_settings(either, teacher, make_config, tmp_path, predicted):
    """What results depend on counts, in both tools."""
    either()
    predicted.clear()
    # Moved, and written in another way.
    checkpoint = tmp_path / 'moved.pth'
    shutil.copy(teacher.checkpoint, checkpoint)
    either(
        *('--threads', '0', '--writers', '1', '--dtype', 'float32'),
        *('--cfg-options', 'model.test_cfg.classes_only=True'),
        checkpoint=checkpoint,
    )
    changes = "dict(test_cfg=dict(scales=(0.5, 1.0), mode='whole'))\n"
    said = either(config=make_config(f'model = {changes}'), code=1)
    assert 'scales was [0.5, 1.0, 2.0], now it is [0.5, 1.0]' in said
    assert '--overwrite' in said
    assert predicted == []


@pytest.mark.fault(
    'the output folder of infer or autolabel has other files',
    'refused; they stay',
)
def test_foreign_folders(either, tmp_path):
    """They are left alone, and files of versions that are not known."""
    mine = tmp_path / 'out/classes/mine.png'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    assert 'was not written by this program' in either(code=1)
    assert [*(tmp_path / 'out').rglob('*.*')] == [mine]
    either('--overwrite', '--limit', '1')
    assert mine.read_text() == 'mine'
    is_infer = either.tool is infer
    name = 'infer.json' if is_infer else 'autolabel_meta.json'
    settings = tmp_path / 'out' / name
    # The second is that of version 0.1 of this package.
    for content, named in (
        ([], f'{name} is damaged'),
        (
            dict(version=1, test_cfg=dict(memory_budget=1e9))
            if is_infer
            else dict(version=2, teacher={}, settings={}),
            'of another version' if is_infer else 'version=2',
        ),
    ):
        settings.write_text(json.dumps(content))
        assert named in either(code=1)
        assert json.loads(settings.read_text()) == content
    either('--overwrite', '--limit', '1')
    either('--limit', '1')


@pytest.mark.fault(
    'a kill at any moment of infer or autolabel',
    'the same command goes on to the same files, bit for bit',
)
def test_killed(either, fork, tmp_path, expected):
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
    [(1, errno.EDQUOT), (4, errno.ENOSPC), (11, errno.EDQUOT)],
)
@pytest.mark.fault(
    'the disk or quota is full: infer, autolabel',
    'exit status 28; no half file; the same command goes on',
)
def test_full_disk(either, monkeypatch, tmp_path, expected, number, moment):
    """Nothing half written is left; with space the same command goes on."""
    out = tmp_path / 'out'
    fsync, calls, lock = os.fsync, [], threading.Lock()

    def full(descriptor):
        # Folders are synced too, which fails without a word.
        if os.path.isdir(f'/proc/self/fd/{descriptor}'):
            return
        with lock:
            calls.append(descriptor)
            if len(calls) >= moment:
                raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        said = either(code=28)
    (line,) = (x for x in said.splitlines() if os.strerror(number) in x)
    assert f'{out}/' in line
    assert not list(out.rglob('*.part'))
    if moment > 1:
        assert 'of 5 images were done now' in said
        assert 'the same command goes on' in said
        # Writers stop: they do not try one file after the other.
        assert len(calls) <= moment + 4
    either()
    assert tree(out) == expected


@pytest.mark.fault(
    'one of two predicting processes is late, one image is bad',
    'both wait and end with one status',
)
def test_processes_of_torchrun(either, fork, images, tmp_path):
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


@pytest.mark.fault(
    'infer or autolabel is started twice in one folder',
    'no file is ever half written',
)
def test_two_at_once_in_one_folder(either, fork, tmp_path, expected):
    """By mistake, with all images each: nothing is ever half written."""
    waits = [fork(either.tool, *either.options) for _ in range(2)]
    # One may list labels while the other still writes.
    assert {wait() for wait in waits} <= {0, 1}
    either()
    assert tree(tmp_path / 'out') == expected


@pytest.mark.usefixtures('heeded')
@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
@pytest.mark.fault(
    'SIGTERM or Ctrl-C in infer or autolabel',
    'the image is finished; the same command goes on',
)
def test_signals(either, monkeypatch, tmp_path, expected, number, code):
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
