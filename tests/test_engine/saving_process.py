"""Forks a training process time and again, and kills it while it saves.

Prints, for each, the files with what is in them, what last_checkpoint names,
and which is found to be the newest. Arguments: folder, number of processes.
"""

import json
import os
import random
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
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmseg.utils import register_all_modules

from hmsa_mmseg.engine import SafeResumeRunner
from hmsa_mmseg.engine.runners.safe_resume_runner import newest_checkpoint
from hmsa_mmseg.utils import check_crc

torch.set_num_threads(1)
register_all_modules()
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(50_000))

    def forward(self, inputs, mode):
        return dict(loss=(self.weight * inputs[0]).mean())


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


def train(delay):
    SafeResumeRunner(
        model=Model(),
        work_dir=str(folder),
        resume=True,
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(1))],
            batch_size=1,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
        ),
        train_cfg=dict(type='ResumableIterBasedTrainLoop', max_iters=10**6),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook',
                by_epoch=False,
                interval=1,
                max_keep_ckpts=1,
            )
        ),
        custom_hooks=[KillSoon(delay)],
        log_level='ERROR',
        default_scope='mmseg',
    ).train()


rng = random.Random(0)
for _ in range(rounds):
    delay = rng.uniform(0, 0.1)
    child = os.fork()
    if child == 0:
        try:
            train(delay)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    found = sorted(folder.glob('*.pth'))
    whole = []
    for path in found:
        check_crc(path)
        state = torch.load(path, weights_only=True)
        # Each step takes 1 / 50,000 from each weight.
        steps = -state['state_dict']['weight'][0].item() * 50_000
        whole.append((path.name, state['meta']['iter'], round(steps)))
    newest, rejected = newest_checkpoint([folder])
    print(
        json.dumps(
            dict(
                killed=os.WTERMSIG(status),
                files=whole,
                rejected=len(rejected),
                pointer=Path((folder / 'last_checkpoint').read_text()).name,
                parts=len(list(folder.glob('.*.part'))),
                newest=newest.name,
            )
        ),
        flush=True,
    )
