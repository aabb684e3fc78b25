"""Random numbers that depend on the iteration alone."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Seed torch before each training iteration.

    The seed is a function of the run's seed, the process and the iteration,
    by numpy's ``SeedSequence``, which tells neighbouring numbers well apart:
    a resumed run drops out the same units as an uninterrupted one. The
    generators of data loading, ``random`` and ``numpy.random``, are left
    alone: with ``ClassUniformSampler`` each image has a seed of its own.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Seed the generators of the CPU and of all GPUs."""
        mixed = np.random.SeedSequence([runner.seed, runner.rank, runner.iter])
        torch.manual_seed(int(mixed.generate_state(1, np.uint64)[0]))
