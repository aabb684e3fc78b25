"""Forks processes that train: some together with gloo, or some to be killed.

Arguments: a folder, and scenarios below, each followed by a number of
processes if these are not two. In the folder, each rank leaves how each
scenario has ended for it, and its weights; those that disagree, how each try
has ended. The exit codes of the processes of a scenario are printed. For
`killed`, a process is killed time and again while it saves, and for each a
line is printed: the files with what is in them, what last_checkpoint names,
and which is found to be the newest.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

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
from hmsa_mmseg.engine.runners.safe_resume_runner import newest_checkpoint
from hmsa_mmseg.utils import check_crc

KILLED = 5  # processes
WEIGHTS = 50_000


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


class Counter(BaseModel):
    """Each step takes 1 / WEIGHTS from each weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(WEIGHTS))

    def forward(self, inputs, mode):
        return dict(loss=self.weight.mean())


class On(Hook):
    """Calls a function before an iteration of a rank, counted from 1."""

    priority = 'VERY_HIGH'

    def __init__(self, rank, iteration, function):
        self.when = rank, iteration
        self.function = function

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.rank, runner.iter + 1) == self.when:
            self.function(data_batch)


class KillSoon(Hook):
    def __init__(self, delay):
        self.delay = delay

    def before_train(self, runner):
        end = runner.iter + 2

        def kill():
            while runner.iter < end:  # lets the run come further each time
                time.sleep(0.001)
            time.sleep(self.delay)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()


def poison(batch):
    batch['inputs'][0].fill_(torch.nan)


def fail_to_save(batch):
    def fail(*args, **kwargs):
        raise OSError('No space left on device')

    safe_checkpoint_hook.atomic_file = fail


def stop(batch):
    os.kill(os.getpid(), signal.SIGUSR1)


def die(batch):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(batch):
    raise ValueError('a broken image')


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
    broken=('broken', [On(1, 3, fail)], 1),
)
# What is different on rank 1 in each try of the processes that disagree.
DIFFERENT = [
    *('images', 'checks', 'resume', 'absent', 'cut', 'other', 'dead'),
]


def settings(inputs, hooks, max_iters, **checkpoint):
    """What both kinds of runs have."""
    return dict(
        train_dataloader=dict(
            dataset=[dict(inputs=row) for row in inputs],
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
        ),
        train_cfg=dict(
            type='ResumableIterBasedTrainLoop', max_iters=max_iters
        ),
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', by_epoch=False, **checkpoint
            )
        ),
        custom_hooks=hooks,
        log_level='ERROR',
        default_scope='mmseg',
    )


def make_runner(
    folder,
    name,
    rank,
    world_size,
    work_dir,
    hooks,
    accumulated=1,
    first_image=0,
    max_iters=8,
    **kwargs,
):
    inputs = torch.linspace(-1, 1, 32).reshape(16, 2)[first_image:]
    hooks = [dict(type='IterSeedHook'), *hooks]
    return SafeResumeRunner(
        model=Model(),
        work_dir=os.path.join(folder, work_dir),
        launcher='pytorch',
        **kwargs,
        **settings(inputs, hooks, max_iters, interval=2),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            accumulative_counts=accumulated,
        ),
        randomness=dict(seed=0),
        env_cfg=dict(
            dist_cfg=dict(
                backend='gloo',
                init_method=f'file://{folder}/meeting_{name}',
                rank=rank,
                world_size=world_size,
            )
        ),
        cfg=Config(
            dict(
                model_wrapper_cfg=dict(
                    type='MMDistributedDataParallel', device_ids=None
                )
            )
        ),
    )


def end_of(runner):
    try:
        runner.train()
    except (Exception, SystemExit) as error:
        return f'{type(error).__name__}: {error}'
    return 'finished'


def train(folder, name, rank, world_size):
    work_dir, *rest = SCENARIOS[name]
    if name == 'resume' and rank == 1:
        work_dir = 'empty'  # that of rank 0 counts
    runner = make_runner(
        *(folder, name, rank, world_size, work_dir, *rest),
        resume=name == 'resume',
    )
    ended = end_of(runner)
    state = runner.model.module.state_dict()
    result = dict(ended=ended, state=state)
    torch.save(result, folder / f'{name}_rank{rank}.pt')
    if name == 'broken':
        raise RuntimeError('as without end_of')


def disagree(folder, name, rank, world_size):
    """Try to train together, with a difference on rank 1 each time."""
    ends = {}
    whole = folder / 'whole'
    here = folder / f'{name}_rank{rank}'
    here.mkdir()
    os.chdir(here)
    for what in DIFFERENT:
        differs = rank == 1 and what
        shutil.copy(whole / 'iter_4.pth', 'start.pth')
        if differs == 'absent':
            os.remove('start.pth')
        elif differs == 'cut':
            os.truncate('start.pth', os.path.getsize('start.pth') - 100)
        elif differs == 'other':
            shutil.copy(whole / 'iter_6.pth', 'start.pth')
        runner = make_runner(
            *(folder, name, rank, world_size, f'{name}_{what}'),
            [On(1, 6, die)] if what == 'dead' else [],
            first_image=1 if differs == 'images' else 0,
            max_iters=0 if differs == 'checks' else 8,
            resume=differs != 'resume',
            load_from='start.pth',
            experiment_name=f'{name}_{what}',
        )
        ends[what] = end_of(runner)
        torch.save(ends, folder / f'{name}_rank{rank}.pt')
    raise RuntimeError('as without end_of')


def fork(function, *args):
    child = os.fork()
    if child == 0:
        function(*args)  # What it raises ends the program as any other.
        os._exit(0)
    return child


def train_as_rank(folder, name, rank, world_size):
    # Negative: see TWO_RANKS in tests/test_tools.
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK='-1'
    )
    function = train if name in SCENARIOS else disagree
    function(folder, name, rank, world_size)


def train_until_killed(folder, delay):
    SafeResumeRunner(
        model=Counter(),
        work_dir=str(folder),
        resume=True,
        **settings(
            *(torch.ones(2, 1), [KillSoon(delay)], 10**6),
            interval=1,
            max_keep_ckpts=1,
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
    ).train()


def report(folder):
    """What a process has left that was killed."""
    files = []
    for path in sorted(folder.glob('*.pth')):
        check_crc(path)
        state = torch.load(path, weights_only=True)
        steps = -state['state_dict']['weight'][0].item() * WEIGHTS
        files.append((path.name, state['meta']['iter'], round(steps)))
    newest, rejected = newest_checkpoint([folder])
    return dict(
        files=files,
        rejected=len(rejected),
        pointer=Path((folder / 'last_checkpoint').read_text()).name,
        newest=newest.name,
    )


def main(folder, *names):
    torch.set_num_threads(1)
    register_all_modules()
    for name in names:
        if name == 'killed':
            rng = random.Random(0)
            for _ in range(KILLED):
                delay = rng.uniform(0, 0.1)
                child = fork(train_until_killed, folder / name, delay)
                _, status = os.waitpid(child, 0)
                left = report(folder / name)
                left['signal'] = os.WTERMSIG(status)
                print(json.dumps(left), flush=True)
            continue
        size = int(name[-1]) if name[-1].isdigit() else 2
        children = [
            fork(train_as_rank, folder, name, rank, size)
            for rank in range(size)
        ]
        states = [os.waitpid(child, 0)[1] for child in children]
        codes = [os.waitstatus_to_exitcode(state) for state in states]
        print(json.dumps({name: codes}), flush=True)


main(Path(sys.argv[1]), *sys.argv[2:])
