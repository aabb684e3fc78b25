"""A guard against losses and statistics that are not finite."""

from __future__ import annotations

import os
from contextlib import ExitStack

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmseg.registry import HOOKS

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.checks import check_integer
from hmsa_mmseg.utils.nonfinite import constant_infinities, nonfinite_names
from hmsa_mmseg.utils.ranks import any_process
from hmsa_mmseg.utils.unwrapping import unwrapped

from ..plain import to_plain

#: How the names of written batches begin, which are no checkpoints.
DUMP_PREFIX = 'invalid_loss_'


class _InvalidLossError(Exception):
    """Leaves ``update_params`` between the backward pass and the step."""


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Stop training when a loss is NaN or infinite, before any weight moves.

    All processes stop with a ``FloatingPointError``, which names iteration,
    losses, learning rate, loss scale and images. Each process whose own loss
    is not finite writes its batch to
    ``<work_dir>/invalid_loss_rank<r>_iter<i>.pth``, which loads with
    ``weights_only=True``: images, labels, paths and losses. Gradients are not
    looked at: where those are not finite, weights go wrong first, but the
    next loss stops the run, and ``SafeCheckpointHook`` saves no such weights.
    The loss is read, and the processes agree on it, when the backward pass
    has been launched: a GPU does not wait between the two passes.

    Args:
        max_skips (int): How many batches may be skipped instead, counted since
            the (re)start. A skipped batch changes no weight, no buffer and no
            state of the optimizer or the loss scaler; with gradient
            accumulation it takes with it what was accumulated so far.
        buffer_interval (int): Every how many iterations the buffers, such as
            running statistics, are checked: a NaN in the input can enter them
            past the loss. 0 is never.
    """

    def __init__(self, max_skips: int = 0, buffer_interval: int = 100):
        self.max_skips = check_integer('InvalidLossHook: max_skips', max_skips)
        self.buffer_interval = check_integer(
            'InvalidLossHook: buffer_interval', buffer_interval
        )
        self.skips = 0
        self._losses = self._batch = self._buffers = None
        self._undo = ExitStack()

    def before_train(self, runner) -> None:
        """Put the guard between the backward pass and the optimizer's step.

        No hook of mmengine is called there. ``update_params`` of the
        optimizer wrapper and the ``backward`` that it calls are what every
        model, wrapped or not, and every precision pass through; replacing
        them on the instance keeps ``optim_wrapper.type``, which ``train.py
        --amp`` wants to set, as it is.

        Raises:
            TypeError: If there are several optimizers.
        """
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            raise TypeError(
                'InvalidLossHook needs an optim_wrapper with one optimizer, '
                f'got {type(wrapper).__name__}'
            )
        self._model = unwrapped(runner.model)
        self._constants = constant_infinities(self._named_buffers())
        handle = self._model.register_forward_hook(self._keep_losses)
        self._undo.callback(handle.remove)
        backward, update_params = wrapper.backward, wrapper.update_params

        def guarded_backward(loss, **kwargs):
            is_invalid = ~torch.isfinite(loss.detach()).all()
            backward(loss, **kwargs)
            # Waits for the loss, so only now. No process is left alone in the
            # backward pass, where gradients spread to all.
            if any_process(is_invalid):
                raise _InvalidLossError

        def guarded_update(loss, *args, **kwargs):
            try:
                update_params(loss, *args, **kwargs)
            except _InvalidLossError:
                self._refuse(runner, loss)
            self._losses = None  # would keep the graph alive

        wrapper.backward = guarded_backward
        wrapper.update_params = guarded_update
        self._undo.callback(delattr, wrapper, 'backward')
        self._undo.callback(delattr, wrapper, 'update_params')

    def after_train(self, runner) -> None:
        """Take the guard away."""
        self._undo.close()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Keep what a fault is reported with, or undone from."""
        self._batch = data_batch
        if self.skips < self.max_skips:
            buffers = self._named_buffers()
            self._buffers = {name: buffers[name].clone() for name in buffers}

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Let the batch go; check the buffers once in a while.

        Raises:
            FloatingPointError: If a buffer holds NaN or infinity.
        """
        self._batch = None
        if not self.every_n_train_iters(runner, self.buffer_interval):
            return
        names = nonfinite_names(self._named_buffers(), self._constants)
        if any_process(bool(names)):
            found = ', '.join(names[:3]) or 'those of another process'
            raise FloatingPointError(
                f'{len(names)} buffers hold NaN or infinity at iteration '
                f'{runner.iter + 1}: {found}; an image with such pixels, or '
                'activations that overflow, can be the cause. The last '
                'checkpoint is from before.'
            )

    def _named_buffers(self) -> dict[str, torch.Tensor]:
        return dict(self._model.named_buffers())

    def _keep_losses(self, module, args, output) -> None:
        if isinstance(output, dict):
            self._losses = output

    def _refuse(self, runner, loss: torch.Tensor) -> None:
        # Also those that were accumulated before: the bad ones are in them.
        runner.optim_wrapper.zero_grad()
        message = self._describe(runner, loss)
        if self.skips >= self.max_skips:
            raise FloatingPointError(message)
        self.skips += 1
        runner.logger.warning(
            f'{message}. Skipped, {self.skips} of {self.max_skips}.'
        )
        with torch.no_grad():
            for name, buffer in self._named_buffers().items():
                buffer.copy_(self._buffers[name])

    def _describe(self, runner, loss: torch.Tensor) -> str:
        """Say what is wrong and, where this process is at fault, dump it."""
        iteration = runner.iter + 1
        start = f'loss not finite at iteration {iteration}'
        if torch.isfinite(loss).all():
            return f'{start} of another process: see its error'
        _, losses = self._model.parse_losses(self._losses or {})
        losses.update(loss=loss)
        losses = {name: float(losses[name].detach()) for name in losses}
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        report = dict(
            iter=iteration,
            rank=runner.rank,
            seed=runner.seed,
            losses=losses,
            lr=runner.optim_wrapper.get_lr(),
            loss_scale=None if scaler is None else scaler.get_scale(),
        )
        path = os.path.join(
            runner.work_dir,
            f'{DUMP_PREFIX}rank{runner.rank}_iter{iteration}.pth',
        )
        try:
            batch = to_plain(self._batch, path='batch')
            with atomic_file(path) as file:
                torch.save({**report, 'batch': batch}, file)
            dumped = f'batch written to {path}'
        except OSError as error:
            dumped = f'batch not written: {error}'
        return (
            f'{start} on rank {runner.rank}: {losses}, lr {report["lr"]}, '
            f'loss scale {report["loss_scale"]}, images '
            f'{_image_paths(self._batch)}; {dumped}'
        )


def _image_paths(batch: object) -> list[str]:
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    return [sample.get('img_path', 'unknown') for sample in samples]
