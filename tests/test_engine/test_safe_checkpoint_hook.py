import logging
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from hmsa_mmseg.engine.hooks.safe_checkpoint_hook import (
    SafeCheckpointHook,
    to_plain,
)


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode):
        outputs = self.linear(torch.stack(inputs))
        return dict(loss=outputs.mean()) if mode == 'loss' else [outputs]


class Score(BaseMetric):
    """As mmseg's IoUMetric, it gives numpy scalars."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=np.float64(61.25))


@pytest.fixture
def run(tmp_path):
    """Return a function that trains a line and returns the runner."""

    def run(name, hook='SafeCheckpointHook', max_iters=4, **kwargs):
        torch.manual_seed(0)  # every run starts from the same weights
        inputs = torch.arange(8.0).reshape(4, 2)
        loader = dict(
            dataset=[dict(inputs=row) for row in inputs],
            batch_size=2,
            num_workers=0,
        )
        runner = Runner(
            model=Line(),
            work_dir=str(tmp_path / name),
            experiment_name=f'{tmp_path.name}_{name}',
            train_dataloader=dict(
                **loader, sampler=dict(type='InfiniteSampler')
            ),
            val_dataloader=dict(
                **loader, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            train_cfg=dict(
                by_epoch=False, max_iters=max_iters, val_interval=2
            ),
            val_cfg=dict(),
            val_evaluator=[Score()],
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.1, momentum=0.9)
            ),
            param_scheduler=dict(type='PolyLR', end=8, by_epoch=False),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(
                    type=hook,
                    by_epoch=False,
                    interval=2,
                    save_best='score',
                    rule='greater',
                ),
            ),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=0),
            default_scope='mmseg',
            **kwargs,
        )
        runner.train()
        return runner

    return run


@pytest.fixture
def warnings(caplog):
    """Return the messages the current mmengine logger gives from here on."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    logger.removeHandler(caplog.handler)


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def test_is_registered():
    assert HOOKS.get('SafeCheckpointHook') is SafeCheckpointHook


def test_stock_hook_writes_files_that_do_not_load(run, tmp_path):
    run('stock', hook='CheckpointHook')
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        load(tmp_path / 'stock' / 'iter_4.pth')


def test_files_load_with_weights_only(run, tmp_path):
    runner = run('safe')
    names = sorted(path.name for path in (tmp_path / 'safe').glob('*.pth'))
    assert names == ['best_score_iter_2.pth', 'iter_2.pth', 'iter_4.pth']
    for name in names:
        checkpoint = load(tmp_path / 'safe' / name)
        assert checkpoint['message_hub']['log_scalars'] == {}
    weight = load(tmp_path / 'safe' / 'iter_4.pth')['state_dict']
    assert torch.equal(weight['linear.weight'], runner.model.linear.weight)


def test_the_running_training_is_left_alone(run, tmp_path):
    runner = run('safe')
    # The saved file has lost its log history, the run has not.
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4
    assert isinstance(runner.message_hub.get_info('best_score'), np.float64)
    momentum = runner.optim_wrapper.optimizer.state_dict()['state']
    saved = load(tmp_path / 'safe' / 'iter_4.pth')['optimizer']['state']
    assert saved.keys() == momentum.keys() == {0, 1}
    for key, state in momentum.items():
        assert state['momentum_buffer'].abs().sum() > 0
        assert torch.equal(
            state['momentum_buffer'], saved[key]['momentum_buffer']
        )


def test_resume_restores_what_was_saved(run, tmp_path):
    whole = run('whole')
    first = run('first', max_iters=2)
    checkpoint = tmp_path / 'first' / 'iter_2.pth'
    resumed = run('resumed', load_from=str(checkpoint), resume=True)
    assert resumed.iter == 4
    # The score of iteration 2 is still the best: no second file of the best.
    assert not list((tmp_path / 'resumed').glob('best*'))
    best_score = resumed.message_hub.get_info('best_score')
    assert type(best_score) is float
    assert best_score == 61.25
    best_file = resumed.message_hub.get_info('best_ckpt')
    assert best_file == first.message_hub.get_info('best_ckpt')
    # With momentum and a falling rate, only their states lead here.
    for found, expected in zip(
        resumed.model.parameters(), whole.model.parameters()
    ):
        assert torch.equal(found, expected)
    assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()


def test_runtime_info_of_numpy_values_becomes_plain():
    message_hub = dict(
        log_scalars=OrderedDict(loss=object()),
        runtime_info=OrderedDict(
            best_score=np.float32(0.5),
            nested=dict(ids=[np.int64(3), (np.bool_(True),)]),
            palette=np.array([[1, 2], [3, 4]], dtype=np.uint8),
        ),
        resumed_keys=OrderedDict(loss=True, best_score=True),
    )
    weights = OrderedDict(weight=torch.ones(1))
    checkpoint = dict(message_hub=message_hub, state_dict=weights)
    SafeCheckpointHook().before_save_checkpoint(None, checkpoint)
    assert checkpoint['message_hub'] == dict(
        log_scalars={},
        runtime_info=dict(
            best_score=0.5,
            nested=dict(ids=[3, (True,)]),
            palette=[[1, 2], [3, 4]],
        ),
        resumed_keys=dict(best_score=True),
    )
    assert checkpoint['state_dict'] is weights


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (np.float64(0.25), 0.25),
        (np.int64(7), 7),
        (np.bool_(False), False),
        (np.str_('road'), 'road'),
        (np.array(3.0), 3.0),
        (np.arange(3), [0, 1, 2]),
        ((np.int8(1), 'a', None), (1, 'a', None)),
        ({np.int64(1), 2}, {1, 2}),
        ({np.int64(1): [np.float32(2)]}, {1: [2.0]}),
    ],
)
def test_to_plain_converts_numpy(value, expected):
    def types(value):
        if isinstance(value, dict):
            return dict, [types(pair) for pair in value.items()]
        if isinstance(value, (list, tuple, set)):
            return type(value), sorted(map(str, map(types, value)))
        return type(value)

    found = to_plain(value, path='meta')
    assert found == expected
    assert types(found) == types(expected)


@pytest.mark.parametrize(
    'value',
    [1, 0.5, 1j, 'a', b'a', None, True, torch.float16, torch.Size([2])],
)
def test_to_plain_keeps_plain_values(value, warnings):
    assert to_plain(value, path='meta') is value
    assert warnings() == []


def test_to_plain_keeps_tensors_and_copies_containers():
    tensor = torch.ones(2)
    state = OrderedDict(state=[tensor])
    plain = to_plain(state, path='optimizer')
    assert type(plain) is OrderedDict
    assert plain['state'][0] is tensor
    assert plain is not state
    assert plain['state'] is not state['state']


def test_foreign_object_is_kept_with_a_warning_that_names_it(warnings):
    class Foreign:
        pass

    foreign = Foreign()
    plain = to_plain(dict(notes=[dict(author=foreign)]), path='meta')
    assert plain['notes'][0]['author'] is foreign
    (message,) = warnings()
    assert 'meta.notes.author is a Foreign' in message
    assert 'weights_only=True' in message
