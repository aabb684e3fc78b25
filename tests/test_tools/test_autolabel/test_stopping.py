"""Full disks, folders that cannot be written, and signals."""

import errno
import os
import shutil
import signal
import threading
from collections import namedtuple
from pathlib import Path

import autolabel
import pytest
from autolabelling import disk, running
from autolabelling.progress import Progress
from autolabelling.stopping import Stopping

from hmsa_mmseg.prediction.predicting import Predictor

pytestmark = pytest.mark.usefixtures('quick')


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize('moment', [1, 3, 8, 11, 14])
def test_full_disk(run, monkeypatch, tmp_path, tree, done, number, moment):
    """Nothing half written is left; with space the same command goes on.

    The moments are the first file of all, and those of labels, confidence,
    manifest and the list of all.
    """
    out = tmp_path / 'out'
    shutil.rmtree(out)
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
        said = run(code=28)
    assert os.strerror(number) in said
    assert not list(out.rglob('*.part'))
    if 3 < moment < 12:
        assert 'of 5 images were labelled now' in said
        assert 'the same command goes on' in said
        # Writers stop: they do not try one file after the other.
        assert len(calls) <= moment + 4
    run()
    assert tree(out) == done


def test_a_disk_that_is_full_at_the_report(run, monkeypatch, tmp_path):
    """All is labelled; the exit status is that of a full disk."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(running, 'make_report', full)
    said = run(report=True, code=28)
    assert 'are complete, the report is not' in said


def test_space_is_foreseen(run, monkeypatch, tmp_path, lines, save):
    """After the first images, for what all shards will write."""
    Usage = namedtuple('Usage', 'total used free')
    free = [10_000]
    monkeypatch.setattr(disk, 'SAMPLE', 2)
    monkeypatch.setattr(
        disk.shutil, 'disk_usage', lambda path: Usage(0, 0, free[0])
    )
    said = run(code=28)
    # Two files of a block of 4096 bytes each, three images left.
    assert 'the first 2 images take 0.008 MB each' in said
    assert '3 more take' in said
    assert '--ignore-space' in said
    run('--ignore-space')
    free[0] = 3 * 8192
    run(out='enough')
    # One more image, and one of the other shard.
    free[0] = 2 * 8192 - 1
    said = run('--shard', '0/2', out='shards', code=28)
    assert '2 more take' in said


def test_folders_that_cannot_be_written(run, monkeypatch, tmp_path, images):
    (tmp_path / 'file').touch()
    said = run(out='file/out', code=1)
    assert 'file/out cannot be written: Not a directory' in said

    opened = Path.open

    def read_only(self, mode='r', *args, **kwargs):
        if 'w' in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(self, mode, *args, **kwargs)

    (tmp_path / 'out').mkdir()
    monkeypatch.setattr(Path, 'open', read_only)
    said = run(code=1)
    assert 'out cannot be written: Read-only file system' in said
    assert [*(tmp_path / 'out').iterdir()] == []


@pytest.fixture(autouse=True)
def heeded():
    """Tests that run in the background of a script inherit an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals(run, monkeypatch, tmp_path, tree, done, number, code):
    """The image at hand is done, all is written, and it can go on."""
    out = tmp_path / 'out'
    shutil.rmtree(out)
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
        said = run(code=code)
    assert f'stopped by {number.name}: the same command goes on' in said
    assert len(calls) == 2
    assert signal.getsignal(number) is before
    assert sorted(n for n in tree(out) if n.endswith('png')) == [
        *('a/0.png', 'a/0_prob.png', 'a/1.png', 'a/1_prob.png')
    ]
    run()
    assert tree(out) == done


def test_an_ignored_signal_stays_ignored():
    """As that of Ctrl-C in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal(run, monkeypatch, tmp_path):
    """It does not wait for the image at hand."""

    def signalled(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError('not reached')

    monkeypatch.setattr(Predictor, '__call__', signalled)
    assert 'stopped by SIGTERM' in run(code=143)


def test_a_signal_before_the_first_image(run, monkeypatch, tmp_path):
    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(autolabel, 'run', signalled)
    assert 'stopped by SIGINT' in run(code=130)


def test_lines_of_progress(monkeypatch):
    """One line now and then in a log; one that is written over at a tty."""
    import io

    now = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])

    def show(is_terminal):
        now[0] = 0.0
        file = io.StringIO()
        file.isatty = lambda: is_terminal
        progress = Progress('labels 1/3', 100, file=file)
        for step in range(40):
            now[0] += 1
            progress.update(failed=step == 7)
        progress.close()
        return file.getvalue()

    assert show(False).splitlines() == [
        'labels 1/3: 30/100 images, 1 failed, 1.00 images/s, 0:01:10 left',
        'labels 1/3: 40/100 images, 1 failed, 1.00 images/s, 0:01:00 left',
    ]
    assert show(True).count('\r') == 41
