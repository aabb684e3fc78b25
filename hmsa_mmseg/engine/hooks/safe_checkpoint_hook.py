"""Checkpoints that are whole, verified, and load without running code."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmseg.registry import HOOKS
from torch.distributed.fsdp import FullyShardedDataParallel

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.locks import lock_file, unlock_file
from hmsa_mmseg.utils.nonfinite import constant_infinities, nonfinite_names
from hmsa_mmseg.utils.ranks import from_all_processes, from_main_process
from hmsa_mmseg.utils.unwrapping import unwrapped

from .. import atomic_backend
from ..plain import make_plain
from ..process_groups import close_gloo_at_exit
from ..run_checks import check_loaded, check_start

#: In the work_dir of a training.
_LOCK = '.training.lock'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """A checkpoint hook for runs that last weeks.

    Its files load with ``weights_only=True``, which ``torch.load`` demands by
    default from torch 2.6 on: mmengine 0.10.7 stores its log history as
    objects of its own, so stock tools without this package cannot resume
    from or test the files they have written. This hook leaves the log history
    out (only the smoothing of the first values printed after a resume depends
    on it) and turns numpy values into plain ones.

    At any time, also after a full disk or a killed process, the folder holds
    the last checkpoint that was written, whole: a new one is written beside
    it, flushed, read back and compared with its checksums before it gets its
    name; only then ``last_checkpoint`` names it, and only then outdated files
    are removed. For that moment there is one file more than
    ``max_keep_ckpts``, and than the one of ``save_best``. Files on other back
    ends than the local one are written as mmengine does.

    Weights and buffers with NaN or infinity are not saved. If rank 0 cannot
    save, all processes stop.

    What is loaded must be whole: weights with NaN or infinity are refused,
    in a test also a checkpoint that lacks weights. Data sets, label loaders,
    the decode head and, in a test or when resuming, the checkpoint must have
    the same classes.

    Args:
        *args: As in :class:`mmengine.hooks.CheckpointHook`.
        check_classes (bool): Whether classes that differ are refused, in
            number or order.
        **kwargs: Likewise.

    Raises:
        ValueError: If what is loaded is not whole or has other classes.
    """

    _constants: frozenset[str] = frozenset()

    def __init__(self, *args, check_classes: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.check_classes = check_classes

    def before_run(self, runner) -> None:
        """Check data sets and model of a run before it begins.

        If there are several processes of gloo, they will end cleanly.
        """
        close_gloo_at_exit(runner)
        check_start(runner, self.check_classes)

    def before_train(self, runner) -> None:
        """Choose how to write, and clear what a killed process has left.

        Raises:
            RuntimeError: If another training writes into this folder.
            TypeError: If the model is one of FSDP.
            ValueError: If checkpoints would be saved while gradients are
                summed.
        """
        from_main_process(
            lambda: lock_file(os.path.join(runner.work_dir, _LOCK), 'training')
        )
        parts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        saves = 0 < self.interval < runner.max_iters
        if not self.by_epoch and saves and self.interval % parts:
            raise ValueError(
                f'default_hooks.checkpoint.interval={self.interval}: a run '
                'resumed within the iterations whose gradients are summed '
                'would lose some; expected a multiple of '
                f'optim_wrapper.accumulative_counts={parts}'
            )
        out_dir = runner.work_dir if self.out_dir is None else self.out_dir
        if self.file_client_args is None:
            backend = get_file_backend(out_dir, backend_args=self.backend_args)
            if type(backend) is LocalBackend:
                self.backend_args = dict(backend=atomic_backend.NAME)
        super().before_train(runner)
        if isinstance(runner.model, FullyShardedDataParallel):
            raise TypeError(
                'SafeCheckpointHook cannot look into the sharded weights of '
                'FSDP; expected default_hooks.checkpoint.type='
                "'CheckpointHook' with FSDPStrategy"
            )
        buffers = dict(unwrapped(runner.model).named_buffers())
        constants = constant_infinities(buffers)
        averaged = {f'module.{name}' for name in constants}  # of EMAHook
        self._constants = frozenset(constants | averaged)
        if is_main_process():
            self._clear_leftovers(runner)
        # The parent removes before it saves.
        self.file_backend = _HeldRemovals(self.file_backend)

    def after_train(self, runner) -> None:
        """Let others write into the folder."""
        super().after_train(runner)
        unlock_file(os.path.join(runner.work_dir, _LOCK))

    def _clear_leftovers(self, runner) -> None:
        names = runner.message_hub.runtime_info.get('outdated_ckpts', [])
        # Without a limit the parent has no such list.
        kept = map(self._path, getattr(self, 'keep_ckpt_ids', ()))
        paths = {self.file_backend.join_path(self.out_dir, n) for n in names}
        _remove(runner, self.file_backend, paths - {*kept})
        if isinstance(self.file_backend, atomic_backend.AtomicLocalBackend):
            for part in Path(self.out_dir).glob('.*.[0-9]*.part'):
                runner.logger.warning(f'Removing {part}: never finished.')
                # The other processes go on and would wait for this one.
                with suppress(OSError):
                    part.unlink()

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(
            self.out_dir, self.filename_tmpl.format(step)
        )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse NaN, and reduce to tensors and plain types, in place.

        Raises:
            FloatingPointError: If weights or buffers hold NaN or infinity.
        """
        for part in ('state_dict', 'ema_state_dict'):
            names = nonfinite_names(checkpoint.get(part, {}), self._constants)
            if names:
                raise FloatingPointError(
                    f'no checkpoint was saved: {len(names)} entries of its '
                    f'{part} hold NaN or infinity, the first are '
                    f'{", ".join(names[:3])}; earlier checkpoints are kept'
                )
        if 'meta' in checkpoint:
            checkpoint['meta']['data_order'] = _data_order(runner)
        make_plain(checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse what does not belong to this run.

        Warns if a resumed run cannot see the images it would have seen.
        """
        check_loaded(runner, checkpoint, self.check_classes)
        before = checkpoint.get('meta', {}).get('data_order')
        if before is None or not runner._resume:
            return
        now = _data_order(runner)
        for key, value in before.items():
            if now[key] != value:
                runner.logger.warning(
                    f'The run to resume had {key}={value}, this one has '
                    f'{now[key]}: from here on it does not see the images '
                    'that it would have seen without the interruption.'
                )

    def _save_checkpoint(self, runner) -> None:
        save = super()._save_checkpoint
        self._save(runner, lambda: save(runner))

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        save = super()._save_best_checkpoint
        self._save(runner, lambda: save(runner, metrics))

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict):
        """Save, and name the file in ``last_checkpoint``."""
        outdated = self.file_backend.outdated
        update_info = runner.message_hub.update_info
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self._path(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            update_info('keep_ckpt_ids', [*self.keep_ckpt_ids])
        # Also in the file: killed now, the run removes them on resuming.
        update_info('outdated_ckpts', [*map(os.path.basename, outdated)])
        self.last_ckpt = self._path(step)
        update_info('last_ckpt', self.last_ckpt)
        if is_main_process():
            _flush_curves(runner)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            pointer = os.path.join(runner.work_dir, 'last_checkpoint')
            with atomic_file(pointer) as file:
                file.write(os.fspath(self.last_ckpt).encode())

    def _save(self, runner, save: Callable[[], None]) -> None:
        """Remove nothing before all is saved; stop all if one cannot."""
        held = self.file_backend
        from_all_processes(save)
        if is_main_process():
            _remove(runner, held.backend, {*held.outdated})
        held.outdated.clear()


class _HeldRemovals:
    """A file back end that notes down what it is asked to remove."""

    def __init__(self, backend):
        self.backend = backend
        self.outdated = []
        self.remove = self.rmtree = self.outdated.append

    def __getattr__(self, name: str):
        return getattr(self.backend, name)


def _remove(runner, backend, paths: set[str]) -> None:
    """Remove files and folders; what cannot be removed stays."""
    for path in sorted(paths):
        try:
            if backend.isfile(path):
                backend.remove(path)
            elif backend.isdir(path):  # checkpoints of sharded models
                backend.rmtree(path)
        # All that matters has been saved: no reason to end the run.
        except OSError as error:
            runner.logger.warning(
                f'cannot remove the outdated {path}: {error}'
            )


def _flush_curves(runner) -> None:
    """Write out what a resumed run will not log again."""
    for backend in runner.visualizer._vis_backends.values():
        # TensorBoard's writer keeps two minutes of values in memory.
        getattr(backend.experiment, 'flush', lambda: None)()


def _data_order(runner) -> dict[str, int | None]:
    """Tell on what the order of images depends, beside seed and data."""
    return dict(
        world_size=runner.world_size,
        batch_size=runner.train_dataloader.batch_size,
        num_images=len(runner.train_dataloader.dataset),
    )
