"""A model of one layer, and a function that trains it."""

import logging

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner

from hmsa_mmseg import compat


class Line(BaseModel):
    """One linear layer, with the dropout and the buffers of larger models."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.norm = torch.nn.BatchNorm1d(1)
        self.dropout = torch.nn.Dropout(dropout)
        mask = torch.tensor([0.0, -torch.inf])
        self.register_buffer('mask', mask)

    def forward(self, inputs, mode, data_samples=None):
        outputs = self.linear(self.dropout(torch.stack(inputs)))
        if mode != 'loss':
            return [outputs]
        spread = self.norm(outputs).square().mean()
        return dict(loss_mean=outputs.mean(), loss_spread=spread)


class Score(BaseMetric):
    """As mmseg's IoUMetric, it gives numpy scalars."""

    scores = ()

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score, *later = self.scores or (61.25,)
        type(self).scores = tuple(later)
        return dict(score=np.float64(score))


class Rows:
    """Eight pairs of numbers; counts how often it is read."""

    def __init__(self):
        self.reads = []

    def __deepcopy__(self, memo):
        return self  # mmengine copies configs, with all in them

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.reads.append(index)
        return dict(inputs=torch.arange(16.0).reshape(8, 2)[index] / 16)


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def make_runner(tmp_path, rows):
    """Return a function that makes a runner for a line."""
    count = iter(range(1000))

    def make(
        name='run',
        hook='SafeCheckpointHook',
        max_iters=4,
        max_epochs=None,
        runner_type=Runner,
        loop='IterBasedTrainLoop',
        sampler='InfiniteSampler',
        checkpoint=(),
        optim_wrapper=(),
        dropout=0.0,
        seed=0,
        **kwargs,
    ):
        torch.manual_seed(0)  # every run starts from the same weights
        by_epoch = max_epochs is not None
        if by_epoch:
            train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
            sampler = 'DefaultSampler'
        else:
            train_cfg = dict(type=loop, max_iters=max_iters)
        loader = dict(dataset=rows, batch_size=2, num_workers=0)
        defaults = dict(
            model=Line(dropout),
            work_dir=str(tmp_path / name),
            # mmengine keeps the state of a run under its name
            experiment_name=f'{tmp_path.name}_{name}_{next(count)}',
            train_dataloader=dict(**loader, sampler=dict(type=sampler)),
            val_dataloader=dict(
                **loader, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            train_cfg=dict(**train_cfg, val_interval=2),
            val_cfg=dict(),
            val_evaluator=[Score()],
            optim_wrapper={
                'optimizer': dict(type='SGD', lr=0.1, momentum=0.9),
                **dict(optim_wrapper),
            },
            param_scheduler=dict(type='PolyLR', end=8, by_epoch=by_epoch),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint={
                    'type': hook,
                    'by_epoch': by_epoch,
                    'interval': 2,
                    'save_best': 'score',
                    'rule': 'greater',
                    **dict(checkpoint),
                },
            ),
            log_processor=dict(by_epoch=by_epoch),
            randomness=dict(seed=seed),
            default_scope='mmseg',
        )
        return runner_type(**{**defaults, **kwargs})

    yield make
    Score.scores = ()


@pytest.fixture
def run(make_runner):
    """Return a function that trains a line and returns the runner."""

    def run(*args, **kwargs):
        runner = make_runner(*args, **kwargs)
        runner.train()
        return runner

    return run


@pytest.fixture
def messages(monkeypatch):
    """Return the warnings that mmengine's loggers give from here on."""
    records = []

    def handle(self, record):
        records.append(record)

    monkeypatch.setattr(MMLogger, 'callHandlers', handle)
    return lambda: [
        record.getMessage()
        for record in records
        if record.levelno >= logging.WARNING
    ]


@pytest.fixture
def set_scores():
    """Return a function that sets what the coming validations score."""

    def set_scores(*scores):
        Score.scores = scores

    return set_scores


@pytest.fixture
def amp(monkeypatch):
    """An optimizer wrapper with a loss scaler, which needs no GPU here."""
    if not compat.torch_has('scaler_on_cpu'):
        pytest.skip(compat.torch_needed('scaler_on_cpu'))
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    monkeypatch.setattr(
        f'{module}.GradScaler',
        lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs),
    )
    return dict(
        type='AmpOptimWrapper',
        dtype='bfloat16',
        loss_scale=dict(init_scale=64.0, growth_interval=2),
    )
