"""Hooks that make things go wrong in a run of ``train.py``.

The config of a test puts this folder on the path and imports it. Iterations
count from 1.
"""

import os
import random
import resource
import signal
import sys
import threading

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS


class _Fault(Hook):
    priority = 'VERY_HIGH'

    def __init__(self, at, rank=None):
        self.at = at
        self.rank = rank

    def before_train_iter(self, runner, *args, **kwargs):
        here = self.rank in (None, runner.rank)
        if here and runner.iter + 1 == self.at:
            self.happen(runner)


@HOOKS.register_module(force=True)
class KillFault(_Fault):
    """SIGKILL at an arbitrary moment after ``at``, at the latest ``by``."""

    def __init__(self, at, by, seed):
        super().__init__(at)
        self.by = by
        self.delay = random.Random(seed).uniform(0, 0.5)

    def happen(self, runner):
        threading.Timer(self.delay, self.kill).start()

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.by:
            self.kill()

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module(force=True)
class FullDiskFault(_Fault):
    """No file can grow beyond 100 kB: the kernel refuses the rest."""

    def happen(self, runner):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))


@HOOKS.register_module(force=True)
class NaNFault(_Fault):
    """Makes the logits of one forward pass NaN through a weight."""

    def happen(self, runner):
        model = runner.model
        model = model.module if is_model_wrapper(model) else model

        def poison(module, args, output):
            handle.remove()
            return output * torch.nan

        handle = model.backbone.conv1.register_forward_hook(poison)


@HOOKS.register_module(force=True)
class KeepWeights(Hook):
    """Saves each process's weights when it ends, also by an error."""

    def before_train(self, runner):
        def save():
            state = runner.model.state_dict()
            state = {k.replace('module.', '', 1): v for k, v in state.items()}
            path = os.path.join(runner.work_dir, f'rank{runner.rank}.pt')
            torch.save(state, path)

        def save_and_report(*args):
            save()
            sys.__excepthook__(*args)

        sys.excepthook = save_and_report
        self.save = save

    def after_train(self, runner):
        self.save()
