"""A checkpoint when the machine is about to be taken away."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from mmengine.hooks import CheckpointHook, Hook
from mmseg.registry import HOOKS

from hmsa_mmseg.utils.checks import check_integer
from hmsa_mmseg.utils.ranks import any_process

# What Windows has not, where nobody sends them.
_POSIX = {'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU'}


@HOOKS.register_module()
class SignalCheckpointHook(Hook):
    """Save after the current iteration and exit when a signal comes.

    Schedulers send one before they end a job. All processes exit together,
    whichever got it. The second signal of a kind acts as if this hook were
    not there; one that the program ignores, as SIGINT in a shell's background
    jobs, stays ignored. A loop that counts epochs cannot be resumed within
    one: there, nothing is saved, and the run resumes from its last epoch.
    Workers of the data loader outlive a signal to all processes only if they
    start after the hook, as with ``ResumableIterBasedTrainLoop``.

    Args:
        signals (Sequence[str]): Names of signals; those that Windows has not
            are left out there.
        exit_code (int): What the processes exit with.
        interval (int): Every how many iterations the processes ask each other.
    """

    # After CheckpointHook, which may just have saved.
    priority = 'LOWEST'

    def __init__(
        self,
        signals: Sequence[str] = ('SIGTERM', 'SIGINT', 'SIGUSR1'),
        exit_code: int = 0,
        interval: int = 1,
    ):
        here = signal.Signals.__members__
        if isinstance(signals, str) or {*signals} - {*here} - _POSIX:
            raise ValueError(
                'SignalCheckpointHook: signals must be a list of names such '
                f"as 'SIGTERM', got {signals!r}"
            )
        self.signals = [here[name] for name in signals if name in here]
        self.exit_code = exit_code
        self.interval = check_integer(
            'SignalCheckpointHook: interval', interval, 1
        )
        self._received = None
        self._previous = {}

    def before_train(self, runner) -> None:
        """Listen to the signals."""
        for number in self.signals:
            before = signal.getsignal(number)
            if before == signal.SIG_IGN:
                continue
            signal.signal(number, self._note)
            # None: set by other than Python code.
            self._previous[number] = before or signal.SIG_DFL

    def after_train(self, runner) -> None:
        """Leave the signals to those who had them before."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Save and exit if a process was told to.

        Raises:
            SystemExit: Then, with ``exit_code``.
        """
        if not self.every_n_train_iters(runner, self.interval):
            return
        optim = runner.optim_wrapper
        parts = getattr(optim, '_accumulative_counts', 1)
        # Gradients that are being summed are in no checkpoint.
        if parts > 1 and optim._inner_count % parts:
            return
        if not any_process(self._received is not None):
            return
        name = self._received.name if self._received else 'another process'
        saved = self._save(runner)
        runner.logger.warning(
            f'Stopped by {name} after iteration {runner.iter + 1}: {saved}.'
        )
        self.after_train(runner)
        runner.call_hook('after_run')  # closes the logs
        raise SystemExit(self.exit_code)

    def _note(self, number: int, frame) -> None:
        self._received = signal.Signals(number)
        signal.signal(number, self._previous[number])

    def _save(self, runner) -> str:
        hooks = [h for h in runner.hooks if isinstance(h, CheckpointHook)]
        if not hooks or hooks[0].by_epoch:
            return 'nothing saved within an epoch'
        hook = hooks[0]
        name = hook.filename_tmpl.format(runner.iter + 1)
        # Just saved, at the end of an interval?
        if os.path.basename(str(hook.last_ckpt)) != name:
            hook._save_checkpoint(runner)
        return f'{hook.last_ckpt} is saved'
