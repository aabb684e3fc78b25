"""Forks two processes that train together with gloo, once for each argument.

Arguments: a folder, and scenarios below. In the folder, each rank leaves how
each scenario has ended for it, and its weights.
"""

import os
import signal
import sys
import traceback

import hmsa_mmseg  # noqa: F401  (before mmseg)

# isort: split

# Two of these are for mmengine, which imports them when first needed: here,
# once, instead of in each process.
import matplotlib.figure  # noqa: F401
import torch
import torch._dynamo
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmseg.utils import register_all_modules

from hmsa_mmseg.engine import SafeResumeRunner
from hmsa_mmseg.engine.hooks import safe_checkpoint_hook


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(2, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, inputs, mode):
        outputs = self.norm(self.linear(torch.stack(inputs)))
        return dict(loss=self.dropout(outputs).square().mean())


class On(Hook):
    """Calls a function before an iteration of a rank, counted from 1."""

    priority = 'VERY_HIGH'

    def __init__(self, rank, iteration, function):
        self.when = rank, iteration
        self.function = function

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.rank, runner.iter + 1) == self.when:
            self.function(data_batch)


def poison(batch):
    batch['inputs'][0].fill_(torch.nan)


def fail_to_save(batch):
    def fail(*args, **kwargs):
        raise OSError('No space left on device')

    safe_checkpoint_hook.atomic_file = fail


def stop(batch):
    os.kill(os.getpid(), signal.SIGUSR1)


# name: (work_dir, hooks, accumulated batches)
SCENARIOS = dict(
    whole=('whole', [], 1),
    nan=('nan', [On(1, 3, poison), dict(type='InvalidLossHook')], 1),
    skip=(
        'skip',
        [On(1, 4, poison), dict(type='InvalidLossHook', max_skips=1)],
        2,
    ),
    stop=('stop', [On(1, 5, stop), dict(type='SignalCheckpointHook')], 1),
    resume=('stop', [], 1),
    full=('full', [On(0, 4, fail_to_save)], 1),
    images=('images', [], 1),
)


def train(folder, name, rank):
    work_dir, hooks, accumulated = SCENARIOS[name]
    inputs = torch.linspace(-1, 1, 32).reshape(16, 2)
    if name == 'images':
        inputs = inputs[rank:]
    runner = SafeResumeRunner(
        model=Model(),
        work_dir=os.path.join(folder, work_dir),
        resume=name == 'resume',
        launcher='pytorch',
        train_dataloader=dict(
            dataset=[dict(inputs=row) for row in inputs],
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
        ),
        train_cfg=dict(type='ResumableIterBasedTrainLoop', max_iters=8),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            accumulative_counts=accumulated,
        ),
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', by_epoch=False, interval=2
            )
        ),
        custom_hooks=[dict(type='IterSeedHook'), *hooks],
        randomness=dict(seed=0),
        env_cfg=dict(
            dist_cfg=dict(
                backend='gloo',
                init_method=f'file://{folder}/meeting_{name}',
                rank=rank,
                world_size=2,
            )
        ),
        cfg=Config(
            dict(
                model_wrapper_cfg=dict(
                    type='MMDistributedDataParallel', device_ids=None
                )
            )
        ),
        log_level='ERROR',
        default_scope='mmseg',
    )
    ended = 'finished'
    start = runner.model.module.state_dict()
    start = {key: value.clone() for key, value in start.items()}
    try:
        runner.train()
    except (Exception, SystemExit) as error:
        ended = f'{type(error).__name__}: {error}'
    state = runner.model.module.state_dict()
    result = dict(ended=ended, state=state)
    torch.save(result, os.path.join(folder, f'{name}_rank{rank}.pt'))


def main(folder, *names):
    torch.set_num_threads(1)
    register_all_modules()
    for name in names:
        children = []
        for rank in (0, 1):
            child = os.fork()
            if child == 0:
                # Negative: see TWO_RANKS in tests/test_tools.
                os.environ.update(
                    RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK='-1'
                )
                try:
                    train(folder, name, rank)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)


main(*sys.argv[1:])
