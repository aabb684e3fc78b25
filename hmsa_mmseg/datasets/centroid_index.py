"""The centroids of a data set, kept in a file.

Reading all labels takes minutes. The result is kept in a file whose name
and header tell what it was made from. The processes of a job share the work
and use one table, that of the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_dist_info,
)
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from .centroid_file import read_rows, write_rows
from .centroid_fingerprint import fingerprint
from .centroids import LabelCentroids

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

    Its name holds their fingerprint, so that different data and settings
    never share a file. Without ``cache_dir`` it is in
    :func:`default_cache_dir`.
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

    In a distributed job all processes call this together: the first accepts
    the file or not, each reads its share of the labels, and all return the
    same table. What was read is kept in files of parts until the table is
    written, so that a job that was interrupted goes on. A file that is
    damaged or was made from other labels is replaced. Where the folder cannot
    be written, the centroids are only kept in memory. Both are logged as
    warnings.

    Args:
        labels (LabelCentroids): The labels.
        cache_dir (str, optional): As in :func:`index_path`.
        num_workers (int, optional): Processes that read labels; 0: this one.
            None: up to 8 of the CPUs there are for each process of the job.

    Returns:
        np.ndarray: (R, 4) int32, columns label (row of ``labels.items``), x,
        y and class, ordered by label.
    """
    path = index_path(labels, cache_dir)
    is_first = get_dist_info()[0] == 0
    found = [_load(path, labels) if is_first else None]
    broadcast_object_list(found)
    rows = found[0]
    parts = path.with_suffix('.parts')
    if rows is None:
        workers = _auto_workers(labels, num_workers)
        blocks = _read_share(labels, parts, workers)
        for part in all_gather_object(blocks):
            blocks.update(part)
        rows = np.concatenate([blocks[k] for k in range(len(labels))])
        if is_first:
            _write(path, rows, parts)
    if is_first:
        shutil.rmtree(parts, ignore_errors=True)
    return rows


def _load(path: Path, labels: LabelCentroids) -> np.ndarray | None:
    try:
        rows = read_rows(path)
    except OSError:
        # Most likely there is none. If it is another fault, writing tells.
        return None
    except ValueError as error:
        return _warn_not_used(path, str(error))
    # The fingerprint sees names, sizes and options. That the same labels
    # still load as they did then is tried on a few.
    last = len(labels.items) - 1
    for position in sorted({0, last // 2, last}):
        stored = rows[rows[:, 0] == position]
        if not np.array_equal(stored, labels.rows(position)):
            changed = labels.path(position)
            return _warn_not_used(path, f'{changed!r} has other centroids now')
    return rows


def _read_share(
    labels: LabelCentroids, parts: Path, num_workers: int
) -> dict[int, np.ndarray]:
    """Read this process's blocks of labels, but for those that were read."""
    rank, world_size = get_dist_info()
    share = range(rank, len(labels), world_size)
    found = {}
    for block in share:
        # Where it is damaged the labels are read again.
        with contextlib.suppress(OSError, ValueError):
            found[block] = read_rows(parts / f'{block}.npz')
    loader = DataLoader(
        labels,
        batch_size=None,
        sampler=[block for block in share if block not in found],
        num_workers=num_workers,
        collate_fn=_identity,
        # Its own: drawing from the global one would make a model that is
        # initialised later depend on whether there was a file.
        generator=torch.Generator(),
    )
    start = logged = time.monotonic()
    can_write = True
    for block, rows in loader:
        found[block] = rows
        can_write = can_write and _write(parts / f'{block}.npz', rows, parts)
        now = time.monotonic()
        if now - logged > LOG_SECONDS or len(found) == len(share):
            logged = now
            print_log(
                f'class centroids: {len(found)} of {len(share)} blocks of '
                f'labels read in {now - start:.0f} s',
                logger='current',
            )
    return found


def _write(path: Path, rows: np.ndarray, parts: Path) -> bool:
    """Write a file, with the folder of parts for what is not whole yet."""
    try:
        write_rows(path, rows, parts)
    except FileNotFoundError:
        # Another job with the same labels has finished and removed the parts.
        return False
    except OSError as error:
        _warn_not_kept(parts.parent, error.strerror or str(error))
        return False
    return True


def _identity(value: object) -> object:
    return value  # arrays stay arrays


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


@lru_cache(maxsize=1)  # once, not for each part
def _warn_not_kept(folder: Path, error: str) -> None:
    print_log(
        f'class centroids: cannot write into {folder} ({error}); they are '
        'kept in memory and built again at the next start. Expected a '
        'writable folder as cache_dir of ClassUniformSampler',
        logger='current',
        level=logging.WARNING,
    )


def _warn_not_used(path: Path, reason: str) -> None:
    print_log(
        f'class centroids: {path} is not used ({reason}); it is built again',
        logger='current',
        level=logging.WARNING,
    )
