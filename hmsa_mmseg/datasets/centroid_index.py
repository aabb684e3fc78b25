"""The centroids of a data set, kept in a file.

Reading all labels takes minutes. The result is kept in a file whose name
and header tell what it was made from, which is written whole and checked when
read. The processes of a job share the work and use one table, that of the
first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.ranks import (
    check_same,
    from_all_processes,
    from_main_process,
)

from .centroids import LabelCentroids

FORMAT = 'hmsa_mmseg centroids 1'
LOG_SECONDS = 10
_SAME = 'the same labels and settings on every machine'


def index_path(labels: LabelCentroids, cache_dir: str | None = None) -> Path:
    """Return the file for the centroids of these labels.

    Its name holds their fingerprint, so that different data and settings
    never share a file. Without ``cache_dir`` it is in
    ``hmsa_mmseg/centroids`` in ``$XDG_CACHE_HOME`` or ~/.cache.
    """
    if cache_dir:
        folder = Path(os.path.expanduser(cache_dir))
    else:
        home = os.environ.get('XDG_CACHE_HOME')
        home = home or os.path.expanduser('~/.cache')
        if not os.path.isabs(home):
            # In a container the user may have no home.
            home = tempfile.gettempdir()
        folder = Path(home, 'hmsa_mmseg', 'centroids')
    name = type(labels.leaves[0]).__name__
    return folder / f'{name}_tile{labels.tile_size}_{fingerprint(labels)}.npz'


def load_or_build(
    labels: LabelCentroids,
    cache_dir: str | None = None,
    num_workers: int | None = None,
) -> np.ndarray:
    """Return the centroids of all labels, from a file if there is one.

    In a distributed job all processes call this together. They must have the
    same labels; the file of the first is taken, or each reads its share of
    the labels, and all return the same table. What was read is kept in files
    of parts until the table is written, so that a job that was interrupted
    goes on. A file that is damaged or was made from other labels is replaced.
    Where the folder cannot be written, the centroids are only kept in memory.
    Both are logged as warnings. ``num_workers`` processes read labels, 0:
    this one; None: up to 8 of the CPUs there are for each process of the job.

    Returns:
        np.ndarray: (R, 4) int32, columns label (row of ``labels.items``), x,
        y and class, ordered by label.

    Raises:
        ValueError: If processes have other labels or settings.
    """
    rank, _ = get_dist_info()
    paths = from_all_processes(lambda: index_path(labels, cache_dir))
    check_same('class centroids', [path.name for path in paths], _SAME)
    path, is_first = paths[rank], rank == 0
    rows = from_main_process(lambda: _load(path))
    if rows is not None:
        changed = from_all_processes(lambda: _changed(rows, labels))
        check_same(
            'class centroids',
            [f'{name or "no label"} has changed' for name in changed],
            _SAME,
        )
        if changed[0] is not None:
            rows = None
            if is_first:
                _warn_not_used(path, f'{changed[0]!r} has other centroids now')
    parts = path.with_suffix('.parts')
    if rows is None:
        workers = _auto_workers(labels, num_workers)
        blocks = {}
        for part in from_all_processes(
            lambda: _read_share(labels, parts, workers)
        ):
            blocks.update(part)
        rows = np.concatenate([blocks[k] for k in range(len(labels))])
        if is_first:
            _write(path, rows, parts)
    if is_first:
        shutil.rmtree(parts, ignore_errors=True)
    return rows


def _load(path: Path) -> np.ndarray | None:
    try:
        return read_rows(path)
    except OSError:
        # Most likely there is none. If it is another fault, writing tells.
        return None
    except ValueError as error:
        return _warn_not_used(path, str(error))


def _changed(rows: np.ndarray, labels: LabelCentroids) -> str | None:
    """Name a label that has other centroids, if a few that are tried have.

    The fingerprint sees names, sizes and options.
    """
    last = len(labels.items) - 1
    for position in sorted({0, last // 2, last}):
        stored = rows[rows[:, 0] == position]
        if not np.array_equal(stored, labels.rows(position)):
            return os.path.basename(labels.path(position))
    return None


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


# --- the file


def write_rows(path: Path, rows: np.ndarray, temp_dir: Path) -> None:
    """Write (R, 4) int32 centroids; the file is either whole or absent.

    ``temp_dir`` is a folder on the same file system, made if absent.
    """
    temp_dir.mkdir(parents=True, exist_ok=True)
    header = dict(format=FORMAT, name=path.name, sha256=_sha256(rows))
    # Not the process id: another machine may write to the same folder.
    part = temp_dir / f'.{uuid.uuid4().hex}.tmp'
    with atomic_file(path, part=part) as file:
        header = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(file, header=header, rows=rows)


def read_rows(path: Path) -> np.ndarray:
    """Read back what :func:`write_rows` wrote, and check it.

    Raises:
        OSError: If it cannot be opened or read.
        ValueError: If it is damaged, or was written under another name: for
            other data or by another version.
    """
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            header = json.loads(file['header'].tobytes())
            rows = file['rows']
        format_, name, sha256 = (
            header[key] for key in ('format', 'name', 'sha256')
        )
    # What numpy and zipfile raise for damaged files has no common type.
    except Exception as error:
        raise ValueError(f'damaged: {error}') from error
    if format_ != FORMAT:
        raise ValueError(f'its format is {format_!r}; expected {FORMAT!r}')
    if name != path.name:
        raise ValueError(f'it was written as {name!r}, for other labels')
    if sha256 != _sha256(rows) or rows.shape[1:] != (4,):
        raise ValueError('damaged: its content does not match its checksum')
    return rows


def _sha256(rows: np.ndarray) -> str:
    about = f'{rows.dtype.str}{rows.shape}'.encode()
    return hashlib.sha256(about + rows.tobytes()).hexdigest()


# --- what it depends on


def fingerprint(labels: LabelCentroids) -> str:
    """Return 16 hex digits that differ when centroids may differ.

    They cover the tile size and, for each leaf, its classes, label mapping,
    label loaders with their public options, and the files: path below their
    common folder, so that a data set may move, and size. The same of files
    that a label loader reads besides the label (confidence, coarse labels).
    There are no sizes on remote file back ends. Times are left out, as
    copying changes them.
    """
    digest = hashlib.sha256(f'{labels.tile_size}'.encode())
    for leaf_id, leaf in enumerate(labels.leaves):
        positions = np.flatnonzero(labels.items[:, 0] == leaf_id)
        paths = [labels.path(position) for position in positions]
        about = [
            _plain(leaf.metainfo['classes']),
            _plain(getattr(leaf, 'label_map', None)),
            _plain(getattr(leaf, 'reduce_zero_label', None)),
            _plain(getattr(leaf, 'ignore_index', 255)),
            [_describe(loader) for loader in labels.loaders[leaf_id]],
            _names_and_sizes(paths, leaf),
        ]
        # Nothing is appended for a data set without, whose file then keeps
        # the name it has.
        if hasattr(leaf, 'file_label_maps'):
            about.append(_plain(leaf.file_label_maps))
        infos = [
            leaf.get_data_info(int(index))
            for index in labels.items[positions, 1]
        ]
        for key in (
            getattr(o, 'reads', None) for o in labels.loaders[leaf_id]
        ):
            paths = [info[key] for info in infos if info.get(key) is not None]
            if paths:
                about.append([key, _names_and_sizes(paths, leaf)])
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:16]


def _names_and_sizes(paths: list[str], leaf: BaseDataset) -> list[list]:
    # By characters, which is right for URLs as well.
    start = os.path.commonprefix(paths).rfind('/') + 1  # noqa: RUF071
    args = getattr(leaf, 'backend_args', None)
    backend = fileio.get_file_backend(paths[0], backend_args=args)
    is_local = isinstance(backend, fileio.LocalBackend)
    return [
        [path[start:], os.stat(path).st_size if is_local else -1]
        for path in paths
    ]


def _describe(loader: object) -> list:
    # mmseg's LoadAnnotations sets reduce_zero_label, a copy of the dataset's,
    # when it first loads a label.
    options = {
        name: value
        for name, value in getattr(loader, '__dict__', {}).items()
        if not name.startswith('_') and name != 'reduce_zero_label'
    }
    name = getattr(loader, '__qualname__', type(loader).__qualname__)
    return [name, _plain(options)]


def _plain(value: object) -> object:
    """Reduce an option to what JSON holds."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=repr)
    return type(value).__qualname__
