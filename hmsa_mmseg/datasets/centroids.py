"""Where in each label which class lies: the centroids of its tiles.

Class-uniform sampling draws crops around these points, as in the authors'
``datasets/uniform.py``: each label is cut into tiles, and each class in a
tile gives its centre of mass. R below is the number of centroids.
"""

from __future__ import annotations

import re

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.dataset import BaseDataset, Compose

# Labels read at a time by one process. Files of parts depend on it: whoever
# changes it also changes FORMAT of centroid_index.py.
BLOCK_SIZE = 32
_LOADER_NAME = re.compile(r'Load\w*(Annotation|Label)')


def class_centroids(
    label: np.ndarray, num_classes: int, tile_size: int
) -> np.ndarray:
    """Find the centre of mass of each class in each tile of a label.

    There are as many tiles as fit (``size // tile_size`` in each direction),
    but at least one, and the last ones reach to the edge. Where the label's
    sides are multiples of ``tile_size``, the result is the authors'; where
    they are not, the authors' code leaves out the remaining strips, and with
    them every image smaller than a tile.

    Args:
        label (np.ndarray): (H, W), not negative. Values of ``num_classes``
            and more are ignored.
        num_classes (int): Number of classes.
        tile_size (int): In pixels.

    Returns:
        np.ndarray: (R, 3) int32, columns x, y and class; x and y in pixels of
        the label, rounded down. Ordered by tile, row by row, then by class. A
        centre of mass may lie outside of its class.
    """
    found = [np.empty((0, 3), np.int32)]
    # One bin for all that is ignored.
    label = np.minimum(label, num_classes).astype(np.intp)
    bins = num_classes + 1
    for top, bottom in _spans(label.shape[0], tile_size):
        for left, right in _spans(label.shape[1], tile_size):
            tile = label[top:bottom, left:right]
            height, width = tile.shape
            rows, columns = np.arange(height), np.arange(width)
            # Two histograms hold all sums needed: pixels of a class in each
            # row and in each column.
            in_row = np.bincount(
                (tile + bins * rows[:, None]).ravel(), minlength=bins * height
            ).reshape(height, bins)
            in_column = np.bincount(
                (tile + bins * columns).ravel(), minlength=bins * width
            ).reshape(width, bins)
            count = in_row.sum(0)
            present = np.flatnonzero(count[:num_classes])
            x = left + columns @ in_column[:, present] // count[present]
            y = top + rows @ in_row[:, present] // count[present]
            found.append(np.stack([x, y, present], 1).astype(np.int32))
    return np.concatenate(found)


def _spans(size: int, tile_size: int) -> list[tuple[int, int]]:
    starts = [k * tile_size for k in range(max(size // tile_size, 1))]
    return list(zip(starts, [*starts[1:], size]))


def find_label_loader(dataset: BaseDataset) -> list:
    """Find what loads the labels in a dataset's pipeline.

    That is the first transform which is mmcv's ``LoadAnnotations``, a
    subclass of it, or named like one; a ValueError if there is none.
    """
    for transform in dataset.pipeline.transforms:
        name = type(transform).__name__
        if isinstance(transform, LoadAnnotations) or _LOADER_NAME.match(name):
            return [transform]
    names = [type(t).__name__ for t in dataset.pipeline.transforms]
    raise ValueError(
        f'no transform that loads labels in the pipeline {names} of '
        f'{type(dataset).__name__}; expected LoadAnnotations or LoadSegLabels '
        'there, or label_loader=[...] of ClassUniformDataset'
    )


class LabelCentroids:
    """The centroids of a data set's labels, block by block.

    A map-style dataset, to be read by the workers of a DataLoader. ``items``
    are (N, 2) position in ``leaves``, datasets that hold samples of their
    own, and index there of each label to read; ``loaders`` are for each leaf
    the transforms that load a label.
    """

    def __init__(
        self,
        leaves: list[BaseDataset],
        items: np.ndarray,
        loaders: list[list],
        tile_size: int,
    ) -> None:
        self.leaves = leaves
        self.items = items
        self.loaders = loaders
        self.tile_size = tile_size
        self.num_classes = len(leaves[0].metainfo['classes'])

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-len(self.items) // BLOCK_SIZE)

    def __getitem__(self, block: int) -> tuple[int, np.ndarray]:
        """Return the block's number and its centroids, as of :meth:`rows`."""
        first = block * BLOCK_SIZE
        last = min(first + BLOCK_SIZE, len(self.items))
        return block, np.concatenate(
            [self.rows(k) for k in range(first, last)]
        )

    def path(self, position: int) -> str:
        """Return the file of one label; a ValueError if there is none."""
        leaf_id, index = self.items[position]
        leaf = self.leaves[leaf_id]
        info = leaf.get_data_info(int(index))
        if not info.get('seg_map_path'):
            raise ValueError(
                f'sample {index} of {type(leaf).__name__} '
                f'({info.get("img_path")!r}) has no label; expected '
                'data_prefix.seg_map_path to be set'
            )
        return info['seg_map_path']

    def rows(self, position: int) -> np.ndarray:
        """Return the centroids of the label of a row of ``items``.

        Returns:
            np.ndarray: (R, 4) int32, columns ``position``, x, y and class.

        Raises:
            ValueError: If the label cannot be loaded, or has values which
                are neither a class nor ignored.
        """
        leaf_id, index = self.items[position]
        leaf = self.leaves[leaf_id]
        results = leaf.get_data_info(int(index))
        path = self.path(position)
        results = Compose(self.loaders[leaf_id])(results)
        if results is None or 'gt_seg_map' not in results:
            names = [type(t).__name__ for t in self.loaders[leaf_id]]
            raise ValueError(
                f'{names} loaded no label (gt_seg_map) from {path!r}; give '
                'label_loader=[...] of ClassUniformDataset the transforms '
                'that do'
            )
        label = results['gt_seg_map']
        self._check_values(label, leaf, path)
        found = class_centroids(label, self.num_classes, self.tile_size)
        return np.insert(found, 0, position, axis=1)

    def _check_values(
        self, label: np.ndarray, leaf: BaseDataset, path: str
    ) -> None:
        ignored = {255, getattr(leaf, 'ignore_index', 255)}
        bad = (label < 0) | (label >= self.num_classes)
        for value in ignored:
            bad &= label != value
        if bad.any():
            values, counts = np.unique(label[bad], return_counts=True)
            shown = ', '.join(
                f'{value} ({count} pixels)'
                for value, count in zip(values[:5], counts[:5])
            )
            raise ValueError(
                f'label {path!r} has values that are no class: {shown}; '
                f'expected 0 to {self.num_classes - 1}, or {sorted(ignored)} '
                'for what is to be ignored'
            )
