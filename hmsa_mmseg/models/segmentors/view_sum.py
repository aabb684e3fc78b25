"""The sum of the views of one image.

Shape shorthand in this module:
    K: output channels (classes), H, W: size of the network's input, h, w:
    original size of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..scale_fusion import resize
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..tiled.restored_logits import RestoredLogits, size_without_padding


class ViewSum:
    """Adds up views, each as soon as it is there.

    Resizing is linear, and mirrors what is mirrored: as long as all views have
    one size, smaller than the original one, they are added at that size, and
    only the sum is resized. Probabilities are made at the original size.
    """

    def __init__(self, align_corners: bool, as_probabilities: bool) -> None:
        self.align_corners = align_corners
        self.as_probabilities = as_probabilities
        self.count = 0
        self._total: Tensor | None = None
        self._ori_shape: tuple[int, int] | None = None

    def add(self, seg_logits: LogitRows, meta: Mapping) -> None:
        """Add one view, logits (1, K, H, W), see :class:`RestoredLogits`."""
        self._ori_shape = tuple(meta['ori_shape'])
        size = self._size_for(size_without_padding(seg_logits.shape, meta))
        view = RestoredLogits(seg_logits, meta, size, self.align_corners)
        if self._total is None:
            self._total = torch.zeros(
                view.shape, dtype=view.dtype, device=view.device
            )
        for rows in view.tiles():
            tile = view.rows(rows)
            if self.as_probabilities:
                is_binary = tile.shape[1] == 1
                tile = tile.sigmoid() if is_binary else tile.softmax(dim=1)
            self._total[:, :, rows] += tile
        self.count += 1

    def mean(self) -> LogitRows:
        """Give the mean (1, K, h, w); no view may be added afterwards."""
        return RestoredLogits(
            WholeLogits(self._total.div_(self.count)),
            {},
            self._ori_shape,
            self.align_corners,
        )

    def _size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which to add a view of this size."""
        ori_shape = self._ori_shape
        if self._total is None:
            is_smaller = math.prod(size) < math.prod(ori_shape)
            can_wait = is_smaller and not self.as_probabilities
            return size if can_wait else ori_shape
        if tuple(self._total.shape[2:]) != size:
            # Of a second size, at which the first are not to be had.
            self._total = resize(self._total, ori_shape, self.align_corners)
        return tuple(self._total.shape[2:])
