import os
import signal

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmseg.registry import DATA_SAMPLERS, LOOPS

from hmsa_mmseg import compat
from hmsa_mmseg.engine import ResumableIterBasedTrainLoop

not_forked = pytest.mark.skipif(
    compat.is_forked(), reason="onedl-mmengine's stock loop skips them itself"
)


@DATA_SAMPLERS.register_module(force=True)
class SkippingSampler(torch.utils.data.Sampler):
    """Counts upwards for ever, from where it is told to."""

    def __init__(self, dataset, seed):
        self.start = 0

    def __len__(self):
        return 8

    def skip(self, num_samples):
        self.start = num_samples

    def __iter__(self):
        while True:
            yield self.start % 8
            self.start += 1


@pytest.fixture
def reads_of(make_runner, rows, tmp_path):
    """Return a function for the indices that a run reads to train."""

    def reads_of(loop, sampler, resume=None, **kwargs):
        if resume is not None:
            kwargs.update(load_from=str(resume), resume=True)
        runner = make_runner(
            sampler=sampler,
            loop=loop,
            val_dataloader=None,
            val_cfg=None,
            val_evaluator=None,
            checkpoint=dict(save_best=None),
            **kwargs,
        )
        rows.reads.clear()
        runner.train()
        return list(rows.reads)

    return reads_of


def test_is_registered():
    found = LOOPS.get('ResumableIterBasedTrainLoop')
    assert found is ResumableIterBasedTrainLoop


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'SkippingSampler'])
def test_past_samples_are_not_read(reads_of, tmp_path, sampler):
    whole = reads_of('ResumableIterBasedTrainLoop', sampler, max_iters=8)
    assert len(whole) == 16
    found = reads_of(
        'ResumableIterBasedTrainLoop',
        sampler,
        resume=tmp_path / 'run' / 'iter_6.pth',
        name='resumed',
        max_iters=8,
    )
    assert found == whole[12:]


@not_forked
def test_stock_loop_reads_them_all(reads_of, tmp_path):
    whole = reads_of('IterBasedTrainLoop', 'InfiniteSampler', max_iters=8)
    found = reads_of(
        'IterBasedTrainLoop',
        'InfiniteSampler',
        resume=tmp_path / 'run' / 'iter_6.pth',
        name='resumed',
        max_iters=8,
    )
    assert found == whole


def test_same_order_as_the_stock_loop(reads_of):
    assert reads_of(
        'ResumableIterBasedTrainLoop', 'InfiniteSampler', name='a'
    ) == reads_of('IterBasedTrainLoop', 'InfiniteSampler', name='b')


def test_other_samplers_are_replayed_with_a_warning(
    reads_of, tmp_path, messages
):
    class Shuffled(InfiniteSampler):
        """Might do anything with its indices."""

        skip = property()  # Of the fork's InfiniteSampler: not to be had.

    DATA_SAMPLERS.register_module(module=Shuffled, force=True)
    whole = reads_of('ResumableIterBasedTrainLoop', 'Shuffled')
    found = reads_of(
        'ResumableIterBasedTrainLoop',
        'Shuffled',
        resume=tmp_path / 'run' / 'iter_2.pth',
        name='resumed',
    )
    assert found == whole
    assert any(
        'Shuffled cannot skip samples: the batches of 2 iterations' in message
        for message in messages()
    )


def test_sampler_that_ends_is_replayed(reads_of, tmp_path, monkeypatch):
    """Its epochs would be counted from the resume on."""
    monkeypatch.setattr(SkippingSampler, 'infinite', False, raising=False)
    whole = reads_of('ResumableIterBasedTrainLoop', 'SkippingSampler')
    found = reads_of(
        'ResumableIterBasedTrainLoop',
        'SkippingSampler',
        resume=tmp_path / 'run' / 'iter_2.pth',
        name='resumed',
    )
    assert found == whole


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_start_where_they_should(run, tmp_path, workers, rows):
    """With workers, batches are asked for ahead of their iteration."""

    def train(name, **kwargs):
        runner = run(
            name,
            max_iters=6,
            loop='ResumableIterBasedTrainLoop',
            train_dataloader=dict(
                dataset=rows,
                batch_size=2,
                num_workers=workers,
                sampler=dict(type='InfiniteSampler'),
            ),
            **kwargs,
        )
        # Ends the workers, for which the garbage collector takes seconds.
        runner.train_loop.dataloader_iterator = None
        return runner.model.state_dict()

    whole = train('whole')
    start = str(tmp_path / 'whole' / 'iter_2.pth')
    resumed = train('resumed', load_from=start, resume=True)
    assert rows.reads.count(0) == 5  # validations: the rest is in workers
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_dead_worker_is_explained(make_runner, rows, monkeypatch):
    def die(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    runner = make_runner(
        loop='ResumableIterBasedTrainLoop',
        train_dataloader=dict(
            dataset=rows,
            batch_size=2,
            num_workers=1,
            sampler=dict(type='InfiniteSampler'),
        ),
    )
    monkeypatch.setattr(type(rows), '__getitem__', die)
    with pytest.raises(RuntimeError, match=r'num_workers, now 1, or enlarge'):
        runner.train()
