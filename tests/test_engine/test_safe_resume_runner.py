"""Which checkpoint `SafeResumeRunner` starts from."""

import os
import re
import shutil

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from hmsa_mmseg.engine import SafeResumeRunner
from hmsa_mmseg.engine.hooks.invalid_loss_hook import DUMP_PREFIX
from hmsa_mmseg.engine.runners.safe_resume_runner import newest_checkpoint


class NoteStart(Hook):
    def before_train(self, runner):
        runner.started_at = runner.iter


@pytest.fixture
def half(run, tmp_path):
    """A run of four iterations out of eight, with files at 2 and 4."""
    run(max_iters=4)
    return tmp_path / 'run'


@pytest.fixture
def go_on(run):
    """Return a function that resumes it as ``train.py --resume`` would."""

    def go_on(**kwargs):
        options = dict(
            max_iters=8,
            runner_type=SafeResumeRunner,
            resume=True,
            custom_hooks=[NoteStart()],
        )
        return run(**{**options, **kwargs})

    return go_on


def cut(path, size):
    with open(path, 'r+b') as file:
        file.truncate(size)


def flip(path):
    """Change a weight without touching anything else."""
    weight = torch.load(path)['state_dict']['linear.weight']
    raw = weight.numpy().tobytes()
    data = path.read_bytes()
    assert data.count(raw) == 1
    path.write_bytes(data.replace(raw, bytes([raw[0] ^ 1]) + raw[1:]))


class Payload:
    def __reduce__(self):
        return os.mkdir, ('touched',)


def run_code(path):
    torch.save(dict(meta=dict(iter=9), notes=Payload()), path)


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda path: cut(path, 0), 'damaged'),
        (lambda path: cut(path, path.stat().st_size - 100), 'damaged'),
        (flip, r'checksum of its entry \S+/data/\d+ is wrong'),
        (lambda path: path.write_bytes(b'no file of torch'), 'damaged'),
        (run_code, 'mkdir, which is not loaded'),
    ],
    ids=['empty', 'cut', 'flipped', 'foreign', 'code'],
)
@pytest.mark.fault(
    'the newest checkpoint is empty, cut, flipped or foreign: --resume',
    'a warning with the reason; the next older one is taken',
)
@pytest.mark.fault(
    'the newest checkpoint holds a program: --resume',
    'not run; the next older one is taken',
)
def test_passes_over_damaged_files(
    half, go_on, messages, monkeypatch, tmp_path, damage, reason
):
    monkeypatch.chdir(tmp_path)
    damage(half / 'iter_4.pth')
    assert go_on().started_at == 2
    assert not (tmp_path / 'touched').exists()
    (message,) = (m for m in messages() if 'Not resuming' in m)
    assert 'iter_4.pth' in message
    assert re.search(reason, message)
    # Training has come by again.
    newest, rejected = newest_checkpoint([half])
    assert newest.name == 'iter_8.pth'
    assert rejected == {}


@pytest.mark.parametrize(
    ('pointer', 'told'),
    [
        (None, None),
        ('/nowhere/iter_9.pth', 'iter_9.pth'),
        ('iter_2.pth', None),
    ],
    ids=['missing', 'stale', 'older'],
)
@pytest.mark.fault(
    'last_checkpoint is missing, stale or of an older file',
    'the newest whole checkpoint is taken',
)
def test_pointer_is_not_needed(half, go_on, messages, pointer, told):
    file = half / 'last_checkpoint'
    file.unlink()
    if pointer is not None:
        file.write_text(str(half / pointer))
    assert go_on().started_at == 4
    found = [m for m in messages() if 'which is no file' in m]
    assert len(found) == (told is not None)
    assert all(told in message for message in found)


@pytest.mark.fault(
    'no checkpoint of a run is usable: --resume',
    'an error with the reason of each',
)
def test_nothing_to_resume_from_is_an_error(half, go_on):
    cut(half / 'iter_2.pth', 10)
    flip(half / 'iter_4.pth')
    with pytest.raises(RuntimeError, match='none of the checkpoints') as error:
        go_on()
    lines = str(error.value).splitlines()[1:]
    assert [os.path.basename(line.split(': ')[0]) for line in lines] == [
        'iter_2.pth',
        'iter_4.pth',
        'best_score_iter_2.pth',
    ]
    assert lines[-1].endswith('has no optimizer')


@pytest.mark.parametrize(
    'loop',
    [
        dict(max_iters=3, loop='ResumableIterBasedTrainLoop'),
        dict(max_epochs=1),
    ],
    ids=['lowered', 'epoch'],
)
@pytest.mark.fault(
    '--resume after the end, or with max_iters lowered',
    'nothing to train, which is said; no file changes',
)
def test_complete_run_does_nothing(run, go_on, messages, tmp_path, rows, loop):
    run(**{**loop, 'max_iters': 4})
    folder = tmp_path / 'run'
    before = {path: path.read_bytes() for path in folder.glob('*.pth')}
    rows.reads.clear()
    runner = go_on(**loop)
    assert runner.iter == 4
    assert rows.reads == []
    (message,) = (m for m in messages() if 'Nothing to train' in m)
    total = loop.get('max_iters', 4)
    assert message.endswith(f'is complete, with 4 iterations of {total}.')
    assert before == {path: path.read_bytes() for path in folder.glob('*.pth')}


def test_where_to_look(run, go_on, tmp_path):
    """In the folder of last_checkpoint, or in that of the hook."""
    checkpoint = dict(out_dir=str(tmp_path / 'disk'))
    run(checkpoint=checkpoint)
    assert not list((tmp_path / 'run').glob('*.pth'))
    pointer = tmp_path / 'run' / 'last_checkpoint'
    assert go_on(max_iters=6).started_at == 4
    shutil.rmtree(tmp_path / 'run')
    (tmp_path / 'run').mkdir()
    assert not pointer.exists()
    assert go_on(checkpoint=checkpoint).started_at == 4


@pytest.mark.fault(
    '--resume from weights without an optimizer',
    'refused; as load_from of a new run they are taken',
)
def test_load_from(run, half, go_on, tmp_path, messages):
    best = str(half / 'best_score_iter_2.pth')
    with pytest.raises(ValueError, match=r'best_score\S+ .*has no optimizer'):
        go_on(load_from=best)
    # Weights alone start a run; a run is resumed in a new folder.
    runner = go_on(name='new', load_from=best, max_iters=2)
    assert runner.iter == 2
    assert any(f'with the weights of {best}' in m for m in messages())
    start = str(half / 'iter_2.pth')
    assert go_on(name='newer', load_from=start).started_at == 2
    # Weights of another run do not stand in for this one.
    other = str(tmp_path / 'newer' / 'iter_8.pth')
    assert go_on(load_from=other, max_iters=5).started_at == 4
    # One goes back in one's own folder.
    assert go_on(load_from=start).started_at == 2
    # Without a checkpoint it starts from scratch; the dump of a batch is none.
    (tmp_path / 'empty').mkdir()
    torch.save(dict(iter=1), tmp_path / f'empty/{DUMP_PREFIX}rank0_iter1.pth')
    runner = go_on(name='empty', max_iters=2)
    assert runner.iter == 2
    assert not runner._resume
    assert any('starting from scratch' in message for message in messages())


def test_load_from_is_checked(run, half):
    path = half / 'weights.pth'
    weights = torch.load(half / 'iter_4.pth')['state_dict']
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    start = dict(load_from=str(path), runner_type=SafeResumeRunner)
    still = dict(optimizer=dict(type='SGD', lr=0.0))
    runner = run(name='new', optim_wrapper=still, **start)
    assert torch.equal(runner.model.linear.weight, weights['linear.weight'])
    cut(path, path.stat().st_size - 10)
    with pytest.raises(ValueError, match=r'weights\.pth: it is damaged'):
        run(name='new', **start)
    flip(half / 'iter_4.pth')
    start['load_from'] = str(half / 'iter_4.pth')
    with pytest.raises(ValueError, match=r'iter_4\.pth: .*checksum'):
        run(name='new', **start)


def test_seed_comes_from_the_checkpoint(run, go_on, half, rows):
    shutil.rmtree(half)
    first = run(seed=None, max_iters=4)
    rows.reads.clear()
    resumed = go_on(seed=None, loop='ResumableIterBasedTrainLoop')
    assert resumed.seed == first.seed
    found = list(rows.reads)
    rows.reads.clear()
    run('whole', seed=first.seed, max_iters=8)
    # Each validation reads all eight rows in their order.
    assert found == rows.reads[-len(found) :]
    assert len(set(found)) == 8


def test_remote_checkpoints_are_left_to_mmengine(
    half, make_runner, monkeypatch
):
    runner = make_runner(
        max_iters=8, runner_type=SafeResumeRunner, resume=True
    )
    hook = next(h for h in runner.hooks if isinstance(h, CheckpointHook))
    hook.out_dir = 'http://host/folder'
    monkeypatch.setattr(Runner, 'train', lambda self: 'as mmengine does')
    monkeypatch.delattr(SafeResumeRunner, '_find_start')
    assert runner.train() == 'as mmengine does'


def test_a_linked_work_dir_keeps_its_name(run, tmp_path, go_on):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'run').symlink_to(tmp_path / 'real')
    checkpoint = dict(out_dir=str(tmp_path / 'out'))
    run(max_iters=4, checkpoint=checkpoint)
    assert (tmp_path / 'out/run/iter_4.pth').exists()
    assert go_on(checkpoint=checkpoint).started_at == 4


@pytest.mark.fault(
    'InfiniteSampler in a run by epoch',
    'refused: an epoch would never end',
)
def test_endless_epochs_are_refused(make_runner, rows):
    runner = make_runner(
        runner_type=SafeResumeRunner,
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=2),
        train_dataloader=dict(
            dataset=rows, batch_size=2, sampler=dict(type='InfiniteSampler')
        ),
    )
    with pytest.raises(ValueError, match='InfiniteSampler is endless'):
        runner.train()
