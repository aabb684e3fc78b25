"""What SafeCheckpointHook leaves in the folder when something goes wrong."""

import errno
import os
import shutil
import struct
import zipfile
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from hmsa_mmseg.engine import atomic_backend
from hmsa_mmseg.utils import atomic_file, check_crc

BEST_2, BEST_4 = 'best_score_iter_2.pth', 'best_score_iter_4.pth'


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def names(folder):
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix == '.pth' or '.part' in path.name
    )


def pointed_at(folder):
    return os.path.basename((folder / 'last_checkpoint').read_text())


class CallAt(Hook):
    """Calls a function before an iteration, counted from 1."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, function):
        self.iteration = iteration
        self.function = function

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            self.function(runner)


def flip_a_byte(path):
    """Change one byte of the first tensor of a file of ``torch.save``."""
    with zipfile.ZipFile(path) as archive:
        (offset,) = (
            entry.header_offset
            for entry in archive.infolist()
            if entry.filename.endswith('/data/0')
        )
    data = bytearray(path.read_bytes())
    # A local header: 30 bytes, of which the last four are the lengths of the
    # name and of the padding that follow.
    lengths = struct.unpack('<HH', data[offset + 26 : offset + 30])
    data[offset + 30 + sum(lengths)] ^= 1
    path.write_bytes(data)


def fail_from_now_on(monkeypatch, fault):
    def fail(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    def damage_and_check(path):
        flip_a_byte(path)
        check_crc(path)

    @contextmanager
    def full(path, **kwargs):
        with atomic_file(path, **kwargs) as file:

            def write(data):
                file.write(data[: len(data) // 2])
                fail()

            yield SimpleNamespace(write=write)

    usage = shutil.disk_usage('/')._replace(free=1000)
    target, name, function = {
        'write': (atomic_backend, 'atomic_file', full),
        'fsync': (os, 'fsync', fail),
        'replace': (os, 'replace', fail),
        'damage': (atomic_backend, 'check_crc', damage_and_check),
        'free': (shutil, 'disk_usage', lambda path: usage),
    }[fault]
    monkeypatch.setattr(target, name, function)


@pytest.mark.parametrize(
    ('fault', 'error', 'message'),
    [
        ('write', OSError, 'No space left'),
        ('fsync', OSError, r'No space left .*iter_4\.pth'),
        ('replace', OSError, 'No space left'),
        ('damage', ValueError, r'checksum of its entry .*data/0'),
        ('free', OSError, r'checkpoint of [\d,]+ bytes: 1,000 bytes are free'),
    ],
)
@pytest.mark.fault(
    'the disk is full, or a write fails, while a checkpoint is saved',
    'an error; the last checkpoint and its pointer stay, no part is left',
)
@pytest.mark.fault(
    'a checkpoint is damaged while it is written',
    'refused by its checksum; the last one stays',
)
@pytest.mark.fault(
    'less space is free than a checkpoint takes',
    'an error with both numbers before anything is written',
)
def test_failed_save_leaves_the_last_checkpoint(
    run, tmp_path, monkeypatch, fault, error, message
):
    hook = CallAt(4, lambda runner: fail_from_now_on(monkeypatch, fault))
    with pytest.raises(error, match=message):
        run(
            checkpoint=dict(max_keep_ckpts=1, save_best=None),
            custom_hooks=[hook],
        )
    folder = tmp_path / 'run'
    assert names(folder) == ['iter_2.pth']
    assert pointed_at(folder) == 'iter_2.pth'
    check_crc(folder / 'iter_2.pth')
    assert load(folder / 'iter_2.pth')['meta']['iter'] == 2


@pytest.mark.fault(
    'saving the best checkpoint fails',
    'an error; the best so far stays',
)
def test_failed_best_checkpoint_leaves_the_best_so_far(
    run, tmp_path, monkeypatch, set_scores
):
    class FailInValidation(Hook):
        def after_val_epoch(self, runner, metrics):
            if runner.iter == 4:
                fail_from_now_on(monkeypatch, 'damage')

    set_scores(10.0, 20.0)
    with pytest.raises(ValueError, match='checksum'):
        run(custom_hooks=[FailInValidation()])
    folder = tmp_path / 'run'
    assert names(folder) == [BEST_2, 'iter_2.pth', 'iter_4.pth']
    assert pointed_at(folder) == 'iter_4.pth'
    info = load(folder / 'iter_4.pth')['message_hub']['runtime_info']
    assert os.path.basename(info['best_ckpt']) == 'best_score_iter_2.pth'
    check_crc(folder / 'best_score_iter_2.pth')


def test_nothing_is_removed_before_the_new_file_is_named(
    run, tmp_path, monkeypatch
):
    folder = tmp_path / 'run'
    seen = []
    remove = os.remove

    def watch(path):
        seen.append((os.path.basename(path), names(folder)))
        assert pointed_at(folder) in names(folder)
        assert pointed_at(folder) != os.path.basename(path)
        remove(path)

    monkeypatch.setattr(os, 'remove', watch)
    run(
        max_iters=6,
        checkpoint=dict(max_keep_ckpts=1, save_best=None),
    )
    assert seen == [
        ('iter_2.pth', ['iter_2.pth', 'iter_4.pth']),
        ('iter_4.pth', ['iter_4.pth', 'iter_6.pth']),
    ]
    assert names(folder) == ['iter_6.pth']


@pytest.mark.parametrize(
    ('removals', 'left', 'kept'),
    [
        (0, [BEST_2, 'iter_2.pth', 'iter_4.pth'], [BEST_2, 'iter_4.pth']),
        (1, [BEST_2, BEST_4, 'iter_4.pth'], [BEST_4, 'iter_4.pth']),
    ],
)
@pytest.mark.fault(
    'a kill between saving a checkpoint and removing the old one',
    'the next run removes it',
)
def test_killed_before_removing_it_removes_later(
    run, tmp_path, monkeypatch, set_scores, removals, left, kept
):
    class Killed(BaseException):
        pass

    def kill(path):
        if removed == removals:
            raise Killed
        removed.append(path)
        remove(path)

    removed, remove = [], os.remove
    removals = [str(tmp_path / 'run' / 'iter_2.pth')][:removals]
    set_scores(10.0, 20.0)
    options = dict(checkpoint=dict(max_keep_ckpts=1), max_iters=4)
    monkeypatch.setattr(os, 'remove', kill)
    with pytest.raises(Killed):
        run(**options)
    monkeypatch.undo()
    folder = tmp_path / 'run'
    assert names(folder) == left
    start = str(folder / 'iter_4.pth')
    run(load_from=start, resume=True, **options)
    assert names(folder) == kept
    info = load(folder / 'iter_4.pth')['message_hub']['runtime_info']
    assert info['best_ckpt'] == str(folder / kept[0])


@pytest.mark.fault(
    'an outdated checkpoint cannot be removed',
    'a warning; it is removed later',
)
@pytest.mark.fault(
    'a kill has left a part of a checkpoint',
    'the next run removes it and says so',
)
def test_removals_that_are_left(run, tmp_path, monkeypatch, messages):
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / '.iter_2.pth.4711.part').write_bytes(b'half')
    options = dict(checkpoint=dict(max_keep_ckpts=2, save_best=None))
    run(max_iters=4, **options)
    assert names(folder) == ['iter_2.pth', 'iter_4.pth']
    assert any('4711.part: never finished' in m for m in messages())

    def refuse(path):
        raise PermissionError(errno.EACCES, 'Permission denied', path)

    start = dict(load_from=str(folder / 'iter_4.pth'), resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'remove', refuse)
        run(max_iters=6, **start, **options)
    assert any('cannot remove the outdated' in m for m in messages())
    start['load_from'] = str(folder / 'iter_6.pth')
    run(max_iters=8, **start, **options)
    assert names(folder) == ['iter_6.pth', 'iter_8.pth']
