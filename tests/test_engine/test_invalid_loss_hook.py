import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from hmsa_mmseg.engine import InvalidLossHook


class Poison(Hook):
    """Puts a value into the images of some iterations, counted from 1."""

    def __init__(self, iterations, value=torch.nan):
        self.iterations = iterations
        self.value = value

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 in self.iterations:
            data_batch['inputs'][1][0] = self.value


class Record(Hook):
    """Notes down the weights before each iteration, and after the last."""

    def __init__(self):
        self.states = []

    def note(self, runner):
        state = runner.model.state_dict()
        self.states.append({k: v.clone() for k, v in state.items()})

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.note(runner)

    after_train = note


def parameters(state):
    return {k: v for k, v in state.items() if k.startswith('linear')}


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.fault(
    'the disk is full when the batch of a NaN loss is written',
    'the error of the loss, which says so',
)
def test_options(make_runner, run, monkeypatch):
    for name, value in (('max_skips', -1), ('buffer_interval', 0.5)):
        with pytest.raises(ValueError, match=rf'{name} must be an integer'):
            InvalidLossHook(**{name: value})
    runner = make_runner(custom_hooks=[Poison([3]), InvalidLossHook()])
    runner.optim_wrapper, wrapper = dict(a=1), runner.optim_wrapper
    with pytest.raises(TypeError, match='one optimizer, got dict'):
        InvalidLossHook().before_train(runner)
    runner.optim_wrapper = wrapper

    # A full disk does not hide the loss.
    def fail(path):
        raise OSError('No space left on device')

    module = 'hmsa_mmseg.engine.hooks.invalid_loss_hook.atomic_file'
    monkeypatch.setattr(module, fail)
    with pytest.raises(FloatingPointError, match='not written: No space left'):
        runner.train()

    # Finite losses are left alone.
    plain, guarded = (
        run('plain'),
        run('guard', custom_hooks=[InvalidLossHook()]),
    )
    assert equal(plain.model.state_dict(), guarded.model.state_dict())
    assert not {'backward', 'update_params'} & {*vars(guarded.optim_wrapper)}
    assert not guarded.model._forward_hooks


@pytest.mark.fault(
    'NaN in the loss',
    'stops with paths, losses, learning rate; the batch is written',
)
def test_dump_holds_the_batch(make_runner, tmp_path, rows, monkeypatch):
    label = torch.arange(6).reshape(1, 2, 3)

    def sample(index):
        sample = SegDataSample(metainfo=dict(img_path=f'{index}.png'))
        sample.gt_sem_seg = PixelData(data=label + index)
        return sample

    read = type(rows).__getitem__
    monkeypatch.setattr(
        type(rows),
        '__getitem__',
        lambda self, i: dict(read(self, i), data_samples=sample(i)),
    )
    runner = make_runner(
        custom_hooks=[Poison([3]), dict(type='InvalidLossHook')]
    )
    with pytest.raises(FloatingPointError, match=r'\d\.png') as e:
        runner.train()
    path = tmp_path / 'run' / 'invalid_loss_rank0_iter3.pth'
    assert f'batch written to {path}' in str(e.value)
    dump = torch.load(path, weights_only=True)
    first, second = rows.reads[-2:]
    batch = dump['batch']
    torch.testing.assert_close(
        batch['inputs'][1],
        torch.tensor([torch.nan, 0.0])
        + torch.tensor([0.0, (2 * second + 1) / 16]),
        equal_nan=True,
    )
    for sample_, index in zip(batch['data_samples'], (first, second)):
        assert sample_['img_path'] == f'{index}.png'
        assert torch.equal(sample_['gt_sem_seg']['data'], label + index)
    assert (dump['iter'], dump['rank'], dump['seed']) == (3, 0, 0)
    assert dump['losses'].keys() == {'loss', 'loss_mean', 'loss_spread'}
    assert dump['lr'] == {'lr': [pytest.approx(0.1 * (1 - 2 / 7))]}


@pytest.mark.fault(
    'more batches with a NaN loss than max_skips',
    'the first are left out; then it stops, with finite weights',
)
def test_skipped_batch_changes_nothing(make_runner, tmp_path, messages):
    record = Record()
    runner = make_runner(
        max_iters=8,
        custom_hooks=[
            record,
            Poison([3, 5, 6]),
            dict(type='InvalidLossHook', max_skips=2),
        ],
    )
    # Of three bad batches two may be skipped.
    with pytest.raises(FloatingPointError, match='iteration 6'):
        runner.train()
    assert equal(record.states[2], record.states[3])  # weights and buffers
    assert not equal(record.states[3], record.states[4])
    weights = parameters(runner.model.state_dict()).values()
    assert all(torch.isfinite(weight).all() for weight in weights)
    (message,) = (m for m in messages() if 'Skipped, 1 of 2' in m)
    assert 'iteration 3 on rank 0' in message
    assert (tmp_path / 'run' / 'invalid_loss_rank0_iter3.pth').exists()


@pytest.mark.parametrize('bad', [3, 4])
@pytest.mark.fault(
    'NaN in the loss within summed gradients',
    'all that was summed for the step is left out',
)
def test_skip_within_accumulated_gradients(run, bad):
    """Batches 3 and 4 make one step; 5 and 6 the next."""
    record = Record()
    run(
        max_iters=6,
        optim_wrapper=dict(accumulative_counts=2),
        custom_hooks=[
            record,
            Poison([bad]),
            dict(type='InvalidLossHook', max_skips=1),
        ],
    )
    moved = [
        not equal(parameters(a), parameters(b))
        for a, b in zip(record.states, record.states[1:])
    ]
    # What was accumulated before the bad batch goes with it.
    assert moved == [False, True, False, bad == 3, False, True]


def test_loss_is_read_behind_the_backward_pass(make_runner, monkeypatch):
    calls = []
    module = 'hmsa_mmseg.engine.hooks.invalid_loss_hook.any_process'

    def read(flag):
        # Read by bool() or item(), a tensor makes a GPU's host wait.
        calls.append('read' if isinstance(flag, torch.Tensor) else 'told')
        return bool(flag)

    monkeypatch.setattr(module, read)
    runner = make_runner(
        max_iters=2,
        custom_hooks=[dict(type='InvalidLossHook')],
        optim_wrapper=dict(clip_grad=dict(max_norm=1.0)),
    )
    runner.model.linear.weight.register_hook(
        lambda grad: calls.append('backward')
    )
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    step = runner.optim_wrapper.optimizer.step
    monkeypatch.setattr(
        runner.optim_wrapper.optimizer,
        'step',
        lambda: (calls.append('step'), step()),
    )
    runner.train()
    assert calls == ['backward', 'read', 'step'] * 2


class Watch(Hook):
    """Compares what a training step changes, before and after the fourth."""

    priority = 'VERY_HIGH'  # before the learning rate changes
    checked = False

    def copy_of(self, runner):
        return copy.deepcopy(
            dict(
                weights=parameters(runner.model.state_dict()),
                buffers=dict(runner.model.named_buffers()),
                optimizer=runner.optim_wrapper.state_dict(),
            )
        )

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == 4:
            self.before = self.copy_of(runner)
            grads = [p.grad for p in runner.model.parameters()]
            self.has_grads = all(grad is not None for grad in grads)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        if runner.iter + 1 == 4:
            self.check(runner)

    def check(self, runner, but=()):
        found = self.copy_of(runner)
        for key in found.keys() - {*but}:
            torch.testing.assert_close(
                found[key], self.before[key], rtol=0, atol=0
            )
        assert all(p.grad is None for p in runner.model.parameters())
        self.checked = True


@pytest.mark.parametrize(
    ('value', 'scaled', 'accumulated', 'max_skips'),
    [
        (torch.inf, False, 1, 0),
        (torch.nan, False, 2, 1),
        (torch.nan, True, 1, 1),
        (torch.nan, True, 2, 0),
    ],
)
@pytest.mark.fault(
    'infinity in the loss, or NaN under AMP',
    'weights, optimizer and scaler stay; no gradient is left',
)
def test_bad_batch_leaves_nothing_behind(
    make_runner, amp, value, scaled, accumulated, max_skips
):
    watch = Watch()
    hook = dict(type='InvalidLossHook', max_skips=max_skips)
    runner = make_runner(
        max_iters=6,
        checkpoint=dict(interval=9, save_best=None),
        custom_hooks=[watch, Poison([4], value), hook],
        optim_wrapper=dict(
            accumulative_counts=accumulated,
            clip_grad=dict(max_norm=1.0),
            **(amp if scaled else {}),
        ),
    )
    if max_skips:
        runner.train()
    else:
        with pytest.raises(FloatingPointError, match='iteration 4 ') as error:
            runner.train()
        message = str(error.value)
        assert ('loss scale None' in message) == (not scaled)
        assert "'loss_spread': nan" in message
        assert "'lr': [0.05" in message
        watch.check(runner, but=['buffers'])
    assert watch.checked
    # Batch 3 had left gradients that wait for a step.
    assert watch.has_grads == (accumulated == 2)


@pytest.mark.fault(
    'NaN in a running mean of batch norm',
    'an error with the name of the buffer',
)
def test_buffers_are_checked(make_runner):
    class PoisonBuffer(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter + 1 == 3:
                runner.model.norm.running_mean.fill_(torch.nan)

    hook = dict(type='InvalidLossHook', buffer_interval=2)
    runner = make_runner(
        checkpoint=dict(interval=9),
        custom_hooks=[PoisonBuffer(), hook],
    )
    with pytest.raises(
        FloatingPointError,
        match=r'1 buffers .* iteration 4: norm\.running_mean',
    ):
        runner.train()
