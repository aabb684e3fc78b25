"""What the centroids of a data set depend on, as one short name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np
from mmengine import fileio
from mmengine.dataset import BaseDataset

from .centroids import LabelCentroids


def fingerprint(labels: LabelCentroids) -> str:
    """Return 16 hex digits that differ when centroids may differ.

    They cover the tile size and, for each leaf, its classes, label mapping,
    label loaders with their public options, and the files: path below their
    common folder, so that a data set may move, and size. The same of files
    that a label loader reads besides the label (confidence, coarse labels).
    There are no sizes on remote file back ends. Times are left out, as
    copying changes them.

    Raises:
        FileNotFoundError: If a label does not exist.
        ValueError: If a sample has no label.
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
        about += _companions(
            leaf, labels.loaders[leaf_id], labels.items[positions, 1]
        )
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:16]


def _companions(
    leaf: BaseDataset, loaders: list, indices: np.ndarray
) -> list[list]:
    """Name the files that loaders read besides the labels, with sizes."""
    found = []
    for key in (getattr(loader, 'reads', None) for loader in loaders):
        if key is None:
            continue
        samples = [leaf.get_data_info(int(index)) for index in indices]
        paths = [info[key] for info in samples if info.get(key) is not None]
        if paths:
            found.append([key, _names_and_sizes(paths, leaf)])
    return found


def _names_and_sizes(paths: list[str], leaf: BaseDataset) -> list[list]:
    # By characters, which is right for URLs as well.
    start = os.path.commonprefix(paths).rfind('/') + 1  # noqa: RUF071
    return [[path[start:], _size(path, leaf)] for path in paths]


def _size(path: str, leaf: BaseDataset) -> int:
    args = getattr(leaf, 'backend_args', None)
    backend = fileio.get_file_backend(path, backend_args=args)
    if isinstance(backend, fileio.LocalBackend):
        return os.stat(path).st_size
    return -1


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
