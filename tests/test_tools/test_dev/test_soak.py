"""What the soak looks for is noticed."""

import copy
import os

import numpy as np
import pytest
import soak
import torch


@pytest.fixture
def state():
    return dict(
        state_dict=dict(weight=torch.zeros(2, 2), bias=torch.ones(3)),
        optimizer=dict(state={0: dict(step=torch.tensor(3))}, groups=[0.1]),
    )


def change(state, what):
    """Change a state in a way that is to be noticed; return where."""
    weights, optimizer = state['state_dict'], state['optimizer']
    if what == 'last bit':
        weights['bias'][1] += torch.finfo(torch.float32).eps
        return '.state_dict.bias'
    if what == 'sign of zero':
        weights['weight'][1, 1] = -0.0
        return '.state_dict.weight'
    if what == 'type':
        optimizer['state'][0]['step'] = torch.tensor(3, dtype=torch.int32)
        return '.optimizer.state.0.step'
    if what == 'shape':
        weights['weight'] = torch.zeros(4)
        return '.state_dict.weight'
    if what == 'plain value':
        optimizer['groups'][0] = 0.2
        return '.optimizer.groups.0'
    del weights['bias']
    return '.state_dict.bias'


@pytest.mark.parametrize(
    'what',
    ['last bit', 'sign of zero', 'type', 'shape', 'plain value', 'missing'],
)
def test_ends_that_differ(state, what):
    other = copy.deepcopy(state)
    assert soak.differences(state, other) == []
    where = change(other, what)
    assert soak.differences(state, other) == [where]
    assert soak.differences(other, state) == [where]


@pytest.mark.parametrize(
    ('grows', 'leaks', 'ok'),
    [(0, 0, True), (0.5, 0, True), (1.5, 0, False), (0, 1, False)],
)
def test_what_grows(grows, leaks, ok):
    """By bytes of the bound a step, or by a file in the last quarter."""
    rng = np.random.default_rng(0)
    rows = [
        (
            step,
            # A program that starts takes more and more.
            min(step, 200) * 10**6
            + grows * soak.BOUND * step
            # A worker for a moment.
            + (4e8 if step % 100 > 90 else 0)
            + rng.normal(0, 1e3),
            # Some are open for a moment.
            min(step, 200) + rng.integers(3) + leaks * (step > 700),
        )
        for step in range(1000)
    ]
    # What ends gives back.
    rows.append((1000, 0, 0))
    slope, files, found = soak.judge(rows, 1000)
    assert found == ok
    assert slope == pytest.approx(grows * soak.BOUND, abs=100)
    assert files[1] - files[0] == leaks


def test_usage(tmp_path):
    memory, files = soak.usage(os.getpid())
    held = [(tmp_path / str(k)).open('w') for k in range(3)]
    block = np.ones(2**24)
    more = soak.usage(os.getpid())
    assert more[1] == files + 3
    assert more[0] - memory >= 0.9 * block.nbytes
    for file in held:
        file.close()


STARTS = 'Set seed\n'
TRAINS = STARTS + 'Iter(train) [  9/3000]  lr: 0.1\n'
SAVES = TRAINS + 'Saving checkpoint at 50 iterations\n'
SCORES = SAVES + 'Iter(val) [8/8]    eta: 0:00:00\n'


@pytest.mark.parametrize(
    ('said', 'has_part', 'phase'),
    [
        (STARTS, False, 'start-up'),
        (TRAINS, False, 'iterations'),
        (TRAINS, True, 'saving'),
        (SAVES, False, 'saving'),
        (SCORES, False, 'validation'),
        (SCORES + 'Iter(val) [8/8]    mIoU: 1.0\n', False, 'iterations'),
    ],
)
def test_phases(said, has_part, phase):
    assert soak.phase_of(said, has_part) == phase
