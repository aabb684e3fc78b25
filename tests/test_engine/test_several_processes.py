"""What is promised to processes with gloo, and to one that is killed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name('several_processes.py')
SCENARIOS = ['whole', 'nan', 'skip', 'stop', 'resume', 'full', 'broken']
# Of two processes, and of three.
DISAGREEING = ['disagree2', 'disagree3']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('several')


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
def codes(folder):
    """The exit codes of the processes of each scenario."""
    lines = run(folder, *SCENARIOS, *DISAGREEING).splitlines()
    codes = {}
    for line in lines:
        if line.startswith('{'):
            codes.update(json.loads(line))
    return codes


@pytest.fixture(scope='module')
def results(folder, codes):
    """What each rank of each scenario has left: {scenario: [dict, dict]}."""
    return {
        name: [torch.load(folder / f'{name}_rank{rank}.pt') for rank in (0, 1)]
        for name in SCENARIOS
    }


@pytest.fixture(params=DISAGREEING)
def tries(request, folder, codes):
    """How each rank has ended each try: {what differs: [rank 0, ...]}."""
    ranks = [
        torch.load(folder / f'{request.param}_rank{rank}.pt')
        for rank in range(len(codes[request.param]))
    ]
    return {
        what: [ends[what] for ends in ranks if what in ends]
        for what in ranks[0]
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
    assert second == f'RuntimeError: rank 0: {first}'
    pointer = (folder / 'full' / 'last_checkpoint').read_text()
    assert os.path.basename(pointer) == 'iter_2.pth'


@pytest.mark.parametrize(
    ('what', 'found'),
    [
        ('images', r'dataset: .*: 16 images \(\w+\); rank 1: 15 images \('),
        ('resume', '--resume: .*: True; rank 1: False; expected'),
        ('absent', r'start\.pth: .*: \d+ bytes.*; rank 1: no such file;'),
        ('cut', r'start\.pth: .*: (\d+) bytes.*; rank 1: (?!\1)\d+ bytes'),
        ('other', r'start\.pth: .*\((\w+)\); rank 1: .*\((?!\1)\w+\);'),
    ],
)
@pytest.mark.fault(
    'processes find other images, or another checkpoint to start from',
    'all refuse to train, with what each has found',
)
def test_differences_stop_all(tries, what, found):
    ends = tries[what]
    others = ', '.join(str(rank) for rank in range(len(ends)) if rank != 1)
    assert {*ends} == {ends[0]}
    assert ends[0].startswith('ValueError: ')
    assert f'the processes differ, rank {others}: ' in ends[0]
    assert re.search(found, ends[0])


@pytest.mark.fault(
    'a check before the training fails on one rank only',
    'all stop with its error',
)
def test_a_failed_check_stops_all(tries):
    at_fault = tries['checks'].pop(1)
    assert at_fault.startswith('ValueError: train_cfg.max_iters=0')
    assert {*tries['checks']} == {f'RuntimeError: rank 1: {at_fault}'}


@pytest.mark.fault(
    'SIGKILL to one of several processes that train',
    'the others end at once, with its rank',
)
def test_a_killed_process_ends_all(tries, codes):
    """Not after half an hour, the timeout of gloo, but as programs do."""
    ends = tries['dead']
    # The first has no end.
    assert codes[f'disagree{len(ends) + 1}'].pop(1) == -9
    for end in ends:
        assert re.match('RuntimeError: .*rank 1 .* has ended, and the', end)
    assert {*codes[f'disagree{len(ends) + 1}']} == {1}


@pytest.mark.fault(
    'an image that one of two processes cannot read',
    'both end, one with its error, the other with the rank of this one',
)
def test_an_error_of_one_ends_both(ends, codes):
    other, at_fault = ends['broken']
    assert at_fault == 'ValueError: a broken image'
    assert re.match('RuntimeError: rank 1 .* has ended, and the', other)
    assert codes['broken'] == [1, 1]
