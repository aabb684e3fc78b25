"""A runner that resumes from the newest checkpoint that is whole."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from mmengine.dataset import InfiniteSampler
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmseg.registry import RUNNERS

from hmsa_mmseg.utils import check_crc, safe_load
from hmsa_mmseg.utils.ranks import (
    check_same,
    from_all_processes,
    from_main_process,
)

from ..hooks.invalid_loss_hook import DUMP_PREFIX
from ..process_groups import close_gloo_at_exit, lost_processes_named


@RUNNERS.register_module()
class SafeResumeRunner(Runner):
    """mmengine's runner with a stricter idea of which file to start from.

    Chosen by ``runner_type='SafeResumeRunner'`` in a config, which mmseg's
    ``train.py`` and ``test.py`` read. It takes the arguments of
    :class:`mmengine.runner.Runner`. With ``--resume``:

    - The checkpoint with the most iterations is taken that is whole and has
      an optimizer state, wherever ``last_checkpoint`` points. Damaged ones
      are passed over with a warning.
    - If there are checkpoints, but none to resume from, that is an error.
      Without any, training starts from ``load_from`` or from scratch.
    - ``load_from`` is resumed from, as in mmengine, only if it lies in the
      run's own folder, to go back in it, or if that has no checkpoint yet
      and ``load_from`` has an optimizer state.
    - Without a seed in the config, that of the checkpoint also decides the
      order of the data.

    Where checkpoints are on other than local storage, mmengine's runner
    decides. All processes must find the same file there, of the same content.

    An endless sampler in a loop by epochs, which would never come to the end
    of its first one, is refused.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Set up processes, whose group ends with the program."""
        super().setup_env(env_cfg)
        close_gloo_at_exit(self)

    def train(self):
        """Train, from the newest whole checkpoint on if asked to resume.

        If another process ends before this one, the error names it.
        """
        with lost_processes_named(self):
            check_same(
                '--resume',
                from_all_processes(lambda: self._resume),
                'one command for all',
            )
            self._choose_start()
            return super().train()

    def _choose_start(self) -> None:
        if self._resume and not self._has_loaded and self._is_local():
            path, seed = from_main_process(self._find_start)
            if path is None:
                self._resume = False
                how = 'from scratch'
                if self._load_from:
                    how = f'with the weights of {self._load_from}'
                self.logger.warning(
                    f'No checkpoint in {self.work_dir}: starting {how}.'
                )
            else:
                self._load_from = path
            if seed is not None and self._randomness_cfg.get('seed') is None:
                # Before the sampler is built.
                self._randomness_cfg.update(seed=seed)
                self.set_randomness(**self._randomness_cfg)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop; a ValueError if its epochs would have no end."""
        loop = super().build_train_loop(loop)
        sampler = loop.dataloader.sampler
        # One of this package says so itself.
        default = isinstance(sampler, InfiniteSampler)
        is_endless = getattr(sampler, 'infinite', default)
        if is_endless and isinstance(loop, EpochBasedTrainLoop):
            raise ValueError(
                f'train_dataloader.sampler: {type(sampler).__name__} is '
                'endless, so the first epoch of EpochBasedTrainLoop '
                '(train_cfg.type) would be, too; expected infinite=False, '
                'DefaultSampler, or a loop by iterations'
            )
        return loop

    def _hooks_with_folder(self) -> list[CheckpointHook]:
        hooks = [h for h in self._hooks if isinstance(h, CheckpointHook)]
        return [hook for hook in hooks if hook.out_dir is not None]

    def _is_local(self) -> bool:
        backends = [
            get_file_backend(hook.out_dir, backend_args=hook.backend_args)
            for hook in self._hooks_with_folder()
        ]
        return all(isinstance(backend, LocalBackend) for backend in backends)

    def load_or_resume(self) -> None:
        """Load what to start from; say so if nothing is left to train.

        Raises:
            ValueError: If another process has another file in its place.
        """
        path = self._load_from
        if path and not self._has_loaded:
            check_same(
                path,
                from_all_processes(lambda: _content_of(path)),
                'one checkpoint, in a folder that all processes see',
            )
        super().load_or_resume()
        loop = self._train_loop
        if self._resume and (
            loop.iter >= loop.max_iters or loop.epoch >= loop.max_epochs
        ):
            self.logger.warning(
                f'Nothing to train: {path} is complete, with {loop.iter} '
                f'iterations of {loop.max_iters}.'
            )

    def _find_start(self) -> tuple[str | None, int | None]:
        """Find what to resume from, and the seed of its run."""
        folders = self._checkpoint_folders()
        given = self._load_from
        if given and Path(given).resolve().parent in folders:
            meta, shortcoming = _read_meta(given)
            if shortcoming:
                raise ValueError(
                    f'load_from={given!r} cannot be resumed from: it '
                    f'{shortcoming}'
                )
            return given, meta.get('seed')
        path, rejected = newest_checkpoint(folders)
        reasons = [f'{bad}: {why}' for bad, why in rejected.items()]
        for reason in reasons:
            self.logger.warning(f'Not resuming from {reason}')
        if path is not None:
            return str(path), _read_meta(path)[0].get('seed')
        if reasons:
            raise RuntimeError(
                'none of the checkpoints can be resumed from; give another '
                'work_dir, or leave out --resume, to train from the start:\n'
                + '\n'.join(reasons)
            )
        if given and os.path.isfile(given):
            meta, shortcoming = _read_meta(given)
            if not shortcoming:
                return given, meta.get('seed')
        return None, None

    def _checkpoint_folders(self) -> list[Path]:
        """List where this run's checkpoints are."""
        work_dir = Path(self.work_dir)
        folders = [work_dir.resolve()] + [
            Path(hook.out_dir).resolve() / work_dir.name
            for hook in self._hooks_with_folder()
        ]
        pointer = work_dir / 'last_checkpoint'
        if pointer.is_file():
            name = pointer.read_text().strip()
            if not os.path.isfile(name):
                self.logger.warning(
                    f'{pointer} names {name!r}, which is no file.'
                )
            # It counts where checkpoints went elsewhere before, but not
            # where it came here with a copy of the folder.
            elif not any(map(_checkpoints, folders)):
                folders.append(Path(name).resolve().parent)
        return folders


def newest_checkpoint(
    folders: list[Path],
) -> tuple[Path | None, dict[Path, str]]:
    """Find the checkpoint with the most iterations that can be resumed from.

    Returns:
        tuple: Its path or None, and why others were passed over: those with
        more iterations, and those that cannot be read at all. Whole files
        without an optimizer state, as of the best scores, are among them
        only if there is nothing to resume from.
    """
    iterations, damaged, weights_only = {}, {}, {}
    for path in sorted(p for f in set(folders) for p in _checkpoints(f)):
        try:
            meta, shortcoming = _read_meta(path)
        except (OSError, ValueError) as error:
            damaged[path] = str(error)
            continue
        if shortcoming:
            weights_only[path] = shortcoming
        else:
            iterations[path] = meta['iter']
    for path in sorted(iterations, key=iterations.get, reverse=True):
        try:
            check_crc(path)
        except (OSError, ValueError) as error:
            damaged[path] = str(error)
        else:
            return path, damaged
    return None, {**damaged, **weights_only}


def _checkpoints(folder: Path) -> list[Path]:
    """List what may be a checkpoint; the dump of a batch is none."""
    return [
        path
        for path in folder.glob('*.pth')
        if not path.name.startswith(DUMP_PREFIX)
    ]


def _content_of(path: str) -> str:
    """Tell a local file from others by little of it."""
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        return 'no such file'  # nor of other ranks, if it is a URL
    try:
        with zipfile.ZipFile(path) as archive:
            checksums = [
                (entry.filename, entry.CRC) for entry in archive.infolist()
            ]
    except zipfile.BadZipFile:
        checksums = 'cut short, or no zip archive'
    digest = zlib.crc32(repr(checksums).encode())
    return f'{os.path.getsize(path)} bytes ({digest:08x})'


def _read_meta(path: str | Path) -> tuple[dict, str | None]:
    """Read ``meta``, and why a whole file cannot be resumed from."""
    checkpoint = safe_load(path, mapped=True)
    if not isinstance(checkpoint, dict):
        return {}, f'holds a {type(checkpoint).__name__}, no checkpoint'
    needed = ('meta', 'state_dict', 'message_hub', 'optimizer')
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        return {}, f'has no {", ".join(missing)}'
    meta = checkpoint['meta']
    return meta, None if 'iter' in meta else 'has no iteration number'
