"""The centroids of a data set, kept in a file.

Reading all labels takes minutes. The result is kept in a file whose name
and header tell what it was made from; the processes of a job share the work
through files of parts, and none of them ever waits for another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from .centroid_file import read_rows, write_rows
from .centroid_fingerprint import fingerprint
from .centroids import BLOCK_SIZE, LabelCentroids

LOG_SECONDS = 10


def default_cache_dir() -> Path:
    """Return ``hmsa_mmseg/centroids`` in ``$XDG_CACHE_HOME`` or ~/.cache."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    if not os.path.isabs(home):
        # In a container the user may have no home.
        home = tempfile.gettempdir()
    return Path(home, 'hmsa_mmseg', 'centroids')


def index_path(labels: LabelCentroids, cache_dir: str | None = None) -> Path:
    """Return the file for the centroids of these labels.

    Args:
        labels (LabelCentroids): The labels.
        cache_dir (str, optional): Folder. Defaults to None,
            :func:`default_cache_dir`.

    Returns:
        Path: Its name holds the fingerprint of the labels, so that different
        data and settings never share a file.
    """
    folder = default_cache_dir()
    if cache_dir:
        folder = Path(os.path.expanduser(cache_dir))
    name = type(labels.leaves[0]).__name__
    return folder / f'{name}_tile{labels.tile_size}_{fingerprint(labels)}.npz'


def load_or_build(
    labels: LabelCentroids,
    cache_dir: str | None = None,
    num_workers: int | None = None,
) -> np.ndarray:
    """Return the centroids of all labels, from a file if there is one.

    In a distributed job each process may call this; there is no collective
    operation in it. A file that is damaged or was made from other labels is
    renamed to ``*.bad`` and replaced. Where the folder cannot be written, the
    centroids are only kept in memory. Both are logged as warnings.

    Args:
        labels (LabelCentroids): The labels.
        cache_dir (str, optional): Folder of the file. Defaults to None,
            :func:`default_cache_dir`.
        num_workers (int, optional): Processes that read labels; 0: this one.
            Defaults to None, up to 8 of the CPUs there are for each process
            of the job.

    Returns:
        np.ndarray: (R, 4) int32, columns label (row of ``labels.items``), x,
        y and class, ordered by label.
    """
    path = index_path(labels, cache_dir)
    rows = _load(path, labels)
    if rows is None:
        rows = _Builder(labels, path, _auto_workers(labels, num_workers)).run()
    # Also left behind by a process that was killed after the last step.
    shutil.rmtree(_parts_folder(path), ignore_errors=True)
    return rows


def _load(path: Path, labels: LabelCentroids) -> np.ndarray | None:
    try:
        rows = read_rows(path)
    except OSError:
        # Most likely there is none. If it is another fault, writing tells.
        return None
    except ValueError as error:
        _set_aside(path, str(error))
        return None
    # The fingerprint sees names, sizes and options. That the same labels
    # still load as they did then is tried on a few.
    last = len(labels.items) - 1
    for position in sorted({0, last // 2, last}):
        stored = rows[rows[:, 0] == position]
        if not np.array_equal(stored, labels.rows(position)):
            changed = labels.path(position)
            _set_aside(path, f'{changed!r} has other centroids now')
            return None
    return rows


class _Builder:
    """Reads labels in blocks, and takes those that others have read.

    Each process reads its share of the blocks first and then whatever is
    missing: a process that is late, slow or dead delays nobody.
    """

    def __init__(
        self, labels: LabelCentroids, path: Path, num_workers: int
    ) -> None:
        self.labels = labels
        self.path = path
        self.num_workers = num_workers
        self.blocks: dict[int, np.ndarray] = {}
        self.damaged: set[Path] = set()
        self.folder: Path | None = _parts_folder(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A folder left by another user may be there, but read-only.
            probe = self.folder / f'.{uuid.uuid4().hex}.tmp'
            probe.touch()
            probe.unlink()
        except OSError as error:
            self._keep_in_memory(error)

    def run(self) -> np.ndarray:
        """Return the centroids of all labels, (R, 4) int32, and write them."""
        self.start = self.logged = time.monotonic()
        rows = None
        while rows is None:
            self._log()
            self._read_missing()
            self._take_parts()
            if len(self.blocks) == len(self.labels):
                rows = np.concatenate(
                    [self.blocks[k] for k in range(len(self.labels))]
                )
            else:
                # Parts disappear when another process has finished.
                rows = self._read(self.path)
        self._write(self.path, rows)
        self._log()
        return rows

    def _read_missing(self) -> None:
        loader = DataLoader(
            self.labels,
            batch_size=None,
            sampler=self._missing(),
            num_workers=self.num_workers,
            collate_fn=_identity,
            # Its own: drawing from the global one would make a model that is
            # initialised later depend on whether there was a file.
            generator=torch.Generator(),
        )
        for block, rows in loader:
            self.blocks[block] = rows
            if not self._exists(self.path):
                self._write(self._part(block), rows)
            if time.monotonic() - self.logged > LOG_SECONDS:
                self._log()

    def _missing(self) -> Iterator[int]:
        """Yield the blocks to read: this process's share, then the others'."""
        rank, world_size = get_dist_info()
        order = [*range(len(self.labels))]
        # Two jobs that start together should not go through the blocks in
        # the same order. Not seeded: the result does not depend on it.
        random.SystemRandom().shuffle(order)
        order.sort(key=lambda block: block % world_size != rank)
        for block in order:
            if self._exists(self.path):
                return
            if block not in self.blocks and not self._exists(
                self._part(block)
            ):
                yield block

    def _take_parts(self) -> None:
        for block in {*range(len(self.labels))} - {*self.blocks}:
            rows = self._read(self._part(block))
            if rows is not None:
                self.blocks[block] = rows

    def _part(self, block: int) -> Path:
        return _parts_folder(self.path) / f'{block}.npz'

    def _exists(self, path: Path) -> bool:
        # Without a folder everything is kept in memory.
        return (
            self.folder is not None
            and path not in self.damaged
            and path.exists()
        )

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            return read_rows(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.damaged.add(path)
            return None

    def _write(self, path: Path, rows: np.ndarray) -> None:
        if self.folder is None or self._exists(path):
            return
        try:
            write_rows(path, rows, self.folder)
        except FileNotFoundError:
            # The folder of parts was removed by a process that has finished.
            pass
        except OSError as error:
            self._keep_in_memory(error)

    def _keep_in_memory(self, error: OSError) -> None:
        _warn_not_kept(self.path, error)
        self.folder = None

    def _log(self) -> None:
        now = self.logged = time.monotonic()
        parts = self.folder.glob('[0-9]*.npz') if self.folder else ()
        done = {*self.blocks, *(int(part.stem) for part in parts)}
        total = len(self.labels.items)
        print_log(
            f'class centroids: {min(len(done) * BLOCK_SIZE, total)} of '
            f'{total} labels read in {now - self.start:.0f} s',
            logger='current',
        )


def _parts_folder(path: Path) -> Path:
    return path.with_suffix('.parts')


def _identity(value: object) -> object:
    return value


def _auto_workers(labels: LabelCentroids, num_workers: int | None) -> int:
    if num_workers is None:
        if hasattr(os, 'sched_getaffinity'):
            cpus = len(os.sched_getaffinity(0))
        else:
            cpus = os.cpu_count() or 1
        num_workers = cpus // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        num_workers = min(max(num_workers, 1), 8)
    # Starting processes takes longer than reading a few labels.
    return num_workers if len(labels) > 2 else 0


def _set_aside(path: Path, reason: str) -> None:
    bad = path.with_name(f'{path.name}.bad')
    print_log(
        f'class centroids: {path} is not used ({reason}); renamed to '
        f'{bad.name}, building it again',
        logger='current',
        level=logging.WARNING,
    )
    with contextlib.suppress(OSError):
        os.replace(path, bad)


def _warn_not_kept(path: Path, error: OSError) -> None:
    print_log(
        f'class centroids: cannot write {path} ({error}); they are kept in '
        'memory and built again at the next start. Expected a writable '
        'folder as cache_dir of ClassUniformSampler',
        logger='current',
        level=logging.WARNING,
    )
