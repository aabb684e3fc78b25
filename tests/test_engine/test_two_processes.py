"""What is promised to two processes with gloo, and to one that is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name('two_processes.py')
SCENARIOS = ['whole', 'nan', 'skip', 'stop', 'resume', 'full', 'images']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('two')


def run(folder, *names):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *names],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def results(folder):
    """What each rank of each scenario has left: {scenario: [dict, dict]}."""
    run(folder, *SCENARIOS)
    return {
        name: [torch.load(folder / f'{name}_rank{rank}.pt') for rank in (0, 1)]
        for name in SCENARIOS
    }


@pytest.fixture
def weights(results):
    """Return a function for the weights of a rank at the end."""

    def weights(name, rank):
        state = results[name][rank]['state']
        return {k: v for k, v in state.items() if 'running' not in k}

    return weights


@pytest.fixture
def ends(results):
    """How each rank has ended: {scenario: [rank 0, rank 1]}."""
    return {
        name: [rank['ended'] for rank in ranks]
        for name, ranks in results.items()
    }


def saved(folder, work_dir, iteration):
    checkpoint = torch.load(folder / work_dir / f'iter_{iteration}.pth')
    state = checkpoint['state_dict']
    return {k: v for k, v in state.items() if 'running' not in k}


def equal(first, second, but='num_batches_tracked'):
    assert first.keys() == second.keys()
    return all(torch.equal(first[k], second[k]) for k in first if but not in k)


def files(folder, work_dir):
    return sorted(path.name for path in (folder / work_dir).glob('*.pth'))


@pytest.mark.fault(
    'SIGKILL at any moment of saving a checkpoint',
    'there is always a whole one, which the pointer names',
)
def test_there_is_always_a_whole_checkpoint(tmp_path):
    """SIGKILL at arbitrary moments of a process that only saves."""
    lines = run(tmp_path, 'killed').splitlines()
    rounds = [json.loads(line) for line in lines if line.startswith('{')]
    assert len(rounds) == 5
    last = 0
    for found in rounds:
        assert found['signal'] == 9
        assert found['rejected'] == 0
        names = [name for name, _, _ in found['files']]
        # The outdated file may not have been removed yet; those of earlier
        # rounds have.
        assert len(names) in (1, 2)
        assert found['pointer'] in names
        for name, iteration, steps in found['files']:
            assert name == f'iter_{iteration}.pth'
            assert steps == iteration
        newest = max(iteration for _, iteration, _ in found['files'])
        assert found['newest'] == f'iter_{newest}.pth'
        assert newest > last
        last = newest


@pytest.mark.fault(
    'NaN in the loss of one of two processes',
    'both stop before the step; the batch is written to a file',
)
def test_invalid_loss_of_one_stops_both(folder, ends, weights):
    other, at_fault = ends['nan']
    assert other == (
        'FloatingPointError: loss not finite at iteration 3 of another '
        'process: see its error'
    )
    assert 'loss not finite at iteration 3 on rank 1' in at_fault
    for rank in (0, 1):
        assert equal(weights('nan', rank), saved(folder, 'nan', 2))
    assert files(folder, 'nan') == [
        'invalid_loss_rank1_iter3.pth',
        'iter_2.pth',
    ]


@pytest.mark.fault(
    'NaN in the loss of one of two processes, max_skips=1',
    'both leave the batch out',
)
def test_both_skip(folder, ends, weights):
    """Batches 3 and 4 make one step; 4 is the one that is summed over."""
    assert ends['skip'] == ['finished', 'finished']
    assert equal(weights('skip', 0), weights('skip', 1))
    assert equal(saved(folder, 'skip', 2), saved(folder, 'skip', 4))
    assert not equal(saved(folder, 'skip', 4), saved(folder, 'skip', 6))
    assert all(torch.isfinite(v).all() for v in weights('skip', 0).values())


@pytest.mark.fault(
    'SIGTERM to one of two processes',
    'both save at the same iteration and end',
)
def test_signal_to_one_stops_both(folder, ends):
    assert ends['stop'] == ['SystemExit: 0', 'SystemExit: 0']
    assert saved(folder, 'stop', 5)


@pytest.mark.fault(
    'a run of two processes is stopped and resumed',
    'it ends with the weights of the uninterrupted one, bit for bit',
)
def test_resumed_run_ends_as_the_uninterrupted_one(folder, ends, weights):
    assert ends['whole'] == ends['resume'] == ['finished', 'finished']
    assert files(folder, 'stop') == [
        'iter_2.pth',
        'iter_4.pth',
        'iter_5.pth',
        'iter_6.pth',
        'iter_8.pth',
    ]
    found, expected = (
        torch.load(folder / work_dir / 'iter_8.pth')
        for work_dir in ('stop', 'whole')
    )
    for key in ('state_dict', 'optimizer'):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    for rank in (0, 1):
        assert equal(weights('resume', rank), weights('whole', rank))


@pytest.mark.fault(
    'the disk of one of two processes is full',
    'both stop with an error; the last checkpoint stays',
)
def test_failed_save_stops_both(folder, ends):
    first, second = ends['full']
    assert first == 'OSError: No space left on device'
    assert second == (
        'RuntimeError: another process could not save a checkpoint, see there'
    )
    pointer = (folder / 'full' / 'last_checkpoint').read_text()
    assert os.path.basename(pointer) == 'iter_2.pth'


@pytest.mark.fault(
    'two processes list different images',
    'both refuse to train, with both counts',
)
def test_other_images_of_one_stop_both(folder, ends):
    for end in ends['images']:
        assert end.startswith('ValueError: train_dataloader.dataset: the proc')
        assert 'rank 0: 16 images' in end
        assert 'rank 1: 15 images' in end
    assert files(folder, 'images') == []
