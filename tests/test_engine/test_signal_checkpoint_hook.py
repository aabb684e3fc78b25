"""`SignalCheckpointHook`: saves and exits when a signal comes."""

import enum
import os
import signal

import pytest
from mmengine.hooks import Hook

from hmsa_mmseg.engine import SignalCheckpointHook


class SignalAt(Hook):
    """Signals the own process during an iteration, counted from 1."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, number=signal.SIGTERM):
        self.iteration = iteration
        self.number = number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def react():
    """Return a function that sets how to react to SIGINT, for one test.

    The tests may run where it is ignored, such as in the background.
    """
    before = signal.getsignal(signal.SIGINT)
    yield lambda action: signal.signal(signal.SIGINT, action)
    signal.signal(signal.SIGINT, before)


def saved(folder):
    return sorted(path.name for path in folder.glob('iter*.pth'))


@pytest.mark.fault(
    'a signal to stop, such as SIGUSR1',
    'saved after the iteration; ends with the exit status chosen',
)
def test_saves_and_exits(run, tmp_path):
    numbers = signal.SIGTERM, signal.SIGUSR1
    before = [*map(signal.getsignal, numbers)]
    stop = dict(type='SignalCheckpointHook', exit_code=3)
    number = SignalAt(3, signal.SIGUSR1)
    with pytest.raises(SystemExit) as stopped:
        run(custom_hooks=[number, stop])
    assert stopped.value.code == 3
    assert saved(tmp_path / 'run') == ['iter_2.pth', 'iter_3.pth']
    pointer = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert os.path.basename(pointer) == 'iter_3.pth'
    assert [*map(signal.getsignal, numbers)] == before


@pytest.mark.fault(
    'a signal to stop while gradients are summed',
    'the run goes on until they are used',
)
def test_sums_of_gradients_are_not_cut(run, tmp_path):
    with pytest.raises(SystemExit):
        run(
            max_iters=6,
            checkpoint=dict(interval=6, save_best=None),
            optim_wrapper=dict(accumulative_counts=3),
            custom_hooks=[SignalAt(1), dict(type='SignalCheckpointHook')],
        )
    assert saved(tmp_path / 'run') == ['iter_3.pth']


def test_does_not_save_twice(make_runner, monkeypatch):
    runner = make_runner(
        checkpoint=dict(save_best=None),
        custom_hooks=[SignalAt(2), dict(type='SignalCheckpointHook')],
    )
    calls, save = [], runner.save_checkpoint

    def count(out_dir, filename, *args, **kwargs):
        calls.append(filename)
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', count)
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 0
    assert calls == ['iter_2.pth']


@pytest.mark.fault(
    'a signal to stop within an epoch',
    'ends and says that nothing is saved within an epoch',
)
def test_nothing_is_saved_within_an_epoch(make_runner, tmp_path, messages):
    runner = make_runner(
        max_epochs=2,
        custom_hooks=[SignalAt(3), dict(type='SignalCheckpointHook')],
    )
    with pytest.raises(SystemExit):
        runner.train()
    assert not list((tmp_path / 'run').glob('*.pth'))
    assert any(
        'SIGTERM after iteration 3: nothing saved within an epoch' in message
        for message in messages()
    )


@pytest.mark.fault(
    'Ctrl-C twice',
    'the second ends the run at once',
)
def test_second_signal_acts_at_once(make_runner, run, react):
    react(signal.SIG_IGN)
    hooks = [SignalAt(3, signal.SIGINT), dict(type='SignalCheckpointHook')]
    assert run(custom_hooks=hooks).iter == 4  # stays ignored
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN

    react(signal.default_int_handler)
    runner = make_runner(
        custom_hooks=[
            SignalAt(3, signal.SIGINT),
            SignalAt(3, signal.SIGINT),
            dict(type='SignalCheckpointHook'),
        ],
    )
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.iter == 2


@pytest.mark.fault(
    'SignalCheckpointHook on Windows, which has fewer signals',
    'those that are missing are left out; unknown names are refused',
)
def test_signals_that_windows_has_not_are_left_out(monkeypatch):
    windows = enum.IntEnum('Signals', dict(SIGINT=2, SIGTERM=15))
    monkeypatch.setattr(signal, 'Signals', windows)
    assert [*SignalCheckpointHook().signals] == [15, 2]
    for signals in (['SIGTREM'], 'SIGTERM'):
        with pytest.raises(ValueError, match='signals must be a list of name'):
            SignalCheckpointHook(signals)
    with pytest.raises(ValueError, match='interval must be an integer of 1'):
        SignalCheckpointHook(interval=0)
