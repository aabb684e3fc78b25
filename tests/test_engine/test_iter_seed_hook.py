from types import SimpleNamespace

import pytest
import torch
from mmseg.registry import HOOKS

from hmsa_mmseg.engine import IterSeedHook


def test_is_registered():
    assert HOOKS.get('IterSeedHook') is IterSeedHook


def seed_of(seed, rank, iteration):
    runner = SimpleNamespace(seed=seed, rank=rank, iter=iteration)
    IterSeedHook().before_train_iter(runner, 0)
    return torch.initial_seed()


def test_seeds_differ():
    seeds = {
        seed_of(seed, rank, iteration)
        for seed in range(3)
        for rank in range(4)
        for iteration in range(50)
    }
    assert len(seeds) == 600
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.parametrize('seeded', [True, False])
def test_dropout_is_that_of_the_uninterrupted_run(
    run, tmp_path, seeded, by_epoch
):
    options = dict(
        dropout=0.5,
        max_epochs=4 if by_epoch else None,
        max_iters=6,
        custom_hooks=[dict(type='IterSeedHook')] if seeded else [],
    )
    whole = run(**options)
    name = 'epoch_2.pth' if by_epoch else 'iter_2.pth'
    resumed = run(
        'resumed',
        load_from=str(tmp_path / 'run' / name),
        resume=True,
        **options,
    )
    same = all(
        torch.equal(found, expected)
        for found, expected in zip(
            resumed.model.state_dict().values(),
            whole.model.state_dict().values(),
        )
    )
    assert same == seeded
