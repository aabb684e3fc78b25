"""`ResumableIterBasedTrainLoop`: which samples a resumed run reads."""

import os
import signal
from multiprocessing import resource_sharer

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmseg.registry import DATA_SAMPLERS


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

    def reads_of(sampler, loop='ResumableIterBasedTrainLoop', at=None):
        resume = dict(load_from=str(tmp_path / 'run' / f'iter_{at}.pth'))
        runner = make_runner(
            'run' if at is None else 'resumed',
            max_iters=8,
            sampler=sampler,
            loop=loop,
            val_dataloader=None,
            val_cfg=None,
            val_evaluator=None,
            checkpoint=dict(save_best=None),
            **({} if at is None else dict(resume, resume=True)),
        )
        rows.reads.clear()
        runner.train()
        return list(rows.reads)

    return reads_of


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'SkippingSampler'])
def test_past_samples_are_not_read(reads_of, sampler):
    whole = reads_of(sampler)
    assert len(whole) == 16
    assert reads_of(sampler, at=6) == whole[12:]
    if sampler == 'InfiniteSampler':
        assert reads_of(sampler, 'IterBasedTrainLoop') == whole


class Shuffled(InfiniteSampler):
    """Might do anything with its indices."""

    skip = property()  # Of the fork's InfiniteSampler: not to be had.


class Ending(SkippingSampler):
    """Its epochs would be counted from the resume on."""

    infinite = False


@pytest.mark.parametrize('sampler', [Shuffled, Ending])
@pytest.mark.fault(
    'resuming with a sampler that cannot skip',
    'a warning; past batches are loaded again',
)
def test_other_samplers_are_replayed_with_a_warning(
    reads_of, messages, sampler
):
    DATA_SAMPLERS.register_module(module=sampler, force=True)
    name = sampler.__name__
    assert reads_of(name, at=None) == reads_of(name, at=2)
    told = f'{name} cannot skip samples: the batches of 2 iterations'
    assert any(told in message for message in messages())


@pytest.mark.fault(
    'resuming with workers, which load ahead',
    'the run ends with the weights of the uninterrupted one',
)
def test_workers_start_where_they_should(run, tmp_path, rows):
    """With workers, batches are asked for ahead of their iteration."""

    def train(name, **kwargs):
        runner = run(
            name,
            max_iters=6,
            loop='ResumableIterBasedTrainLoop',
            train_dataloader=dict(
                dataset=rows,
                batch_size=2,
                num_workers=2,
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


@pytest.fixture
def with_worker(make_runner, rows):
    """A runner that reads in a worker."""
    return make_runner(
        loop='ResumableIterBasedTrainLoop',
        train_dataloader=dict(
            dataset=rows,
            batch_size=2,
            num_workers=1,
            sampler=dict(type='InfiniteSampler'),
        ),
    )


@pytest.mark.parametrize('moment', ['reads', 'hands over'])
@pytest.mark.fault(
    'a worker of the data loader is killed',
    'an error that names num_workers and shared memory',
)
def test_dead_worker_is_explained(with_worker, rows, monkeypatch, moment):
    def die(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    def lose(ident):
        raise ConnectionResetError('Connection reset by peer')

    if moment == 'reads':
        monkeypatch.setattr(type(rows), '__getitem__', die)
    else:
        sharer = resource_sharer._ResourceSharer
        monkeypatch.setattr(sharer, 'get_connection', staticmethod(lose))
    with pytest.raises(RuntimeError, match=r'num_workers, now 1, or enlarge'):
        with_worker.train()


@pytest.mark.parametrize('error', [RuntimeError, ConnectionError])
def test_error_of_a_worker_that_lives(with_worker, rows, monkeypatch, error):
    def fail(self, index):
        raise error('of the data')

    monkeypatch.setattr(type(rows), '__getitem__', fail)
    with pytest.raises(error, match='of the data') as raised:
        with_worker.train()
    assert 'run out of memory' not in str(raised.value)
