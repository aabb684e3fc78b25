"""Logits that are made a few rows at a time, when they are asked for.

Shape shorthand in this module:
    N: batch, K: classes, S: scales, H, W: input size, h, w: head output size
    at one scale, R: rows asked for.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..scale_fusion import Size, scaled_size
from .row_fusion import RowFusion, shorten
from .row_resize import resize_rows, source_rows
from .tiles import rehearsed_part, row_tiles


class LogitRows(metaclass=ABCMeta):
    """Logits of a size and type that are known, made or not.

    Attributes:
        shape (tuple[int]): (N, K, H, W).
        dtype (torch.dtype): Of the logits.
        device (torch.device): Of the logits.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def rows(self, rows: slice) -> Tensor:
        """Make some rows.

        Args:
            rows (slice): Not empty, within [0, H).

        Returns:
            Tensor: Shape (N, K, R, W); not to be changed, as it may be a
            view of something that is kept.
        """

    @abstractmethod
    def image(self, index: int) -> LogitRows:
        """The logits of one image, (1, K, H, W)."""

    def tiles(self) -> list[slice]:
        """Split the rows into tiles, in the order in which to ask for them."""
        num_images, channels, height, width = self.shape
        itemsize = torch.finfo(self.dtype).bits // 8
        return row_tiles(
            height, num_images * channels * width * itemsize, self.device
        )

    def passed_tiles(self) -> list[slice]:
        """The tiles to go through: all, or, in a rehearsal, enough of them."""
        return rehearsed_part(self.tiles(), self._num_rehearsed())

    def _num_rehearsed(self) -> int:
        # A tile is dropped when the next one is there.
        return 3

    def _describe(self, like: Tensor, size: Sequence[int]) -> None:
        self.shape = (*like.shape[:2], *size)
        self.dtype, self.device = like.dtype, like.device


class WholeLogits(LogitRows):
    """Logits that are there already.

    Args:
        logits (Tensor): Shape (N, K, H, W).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self._describe(logits, logits.shape[2:])

    def rows(self, rows: slice) -> Tensor:
        """Give a view of some rows."""
        return self.logits[:, :, rows]

    def image(self, index: int) -> WholeLogits:
        """Give a view of the logits of one image."""
        return WholeLogits(self.logits[index : index + 1])


class FusedLogits(LogitRows):
    """What :func:`..scale_fusion.fuse_scales` gives, row by row.

    Args:
        logits (Sequence[Tensor]): Of each scale, (N, K, h, w), float32 or
            float64.
        attns (Sequence[Tensor | None]): Likewise its attention, in [0, 1],
            (N, 1, h, w); that of the first is not read.
        input_size (Sequence[int]): H and W.
        fusion (RowFusion): Of maps of these sizes.
    """

    def __init__(
        self,
        logits: Sequence[Tensor],
        attns: Sequence[Tensor | None],
        fusion: RowFusion,
    ) -> None:
        self.logits, self.attns, self.fusion = logits, attns, fusion
        self._describe(logits[0], fusion.input_size)

    def rows(self, rows: slice) -> Tensor:
        """Fuse the scales in some rows."""
        sources = self.fusion.source_rows(rows)
        return self.fusion.rows(
            [x[:, :, source] for x, source in zip(self.logits, sources)],
            [
                None if attn is None else attn[:, :, source]
                for attn, source in zip(self.attns, sources)
            ],
            rows,
        )

    def image(self, index: int) -> FusedLogits:
        """Take the maps of one image."""
        return FusedLogits(
            _of_image(self.logits, index),
            _of_image(self.attns, index),
            self.fusion,
        )


class WeightedLogits(LogitRows):
    """The mean of scales at the size of the input, row by row.

    Args:
        scales (Sequence[float]): Relative image sizes, S of them.
        logits (Sequence[Tensor]): Of each scale, (N, K, h, w), float32 or
            float64. On its way to the size of the input each has that of the
            image at its scale.
        weights (Tensor, optional): Of the scales, (N, S, any, any), brought
            to the size of the input; None weighs all alike.
        input_size (Sequence[int]): H and W.
        align_corners (bool): As in ``F.interpolate``.
    """

    def __init__(
        self,
        scales: Sequence[float],
        logits: Sequence[Tensor],
        weights: Tensor | None,
        input_size: Sequence[int],
        align_corners: bool,
    ) -> None:
        self.scales, self.logits, self.weights = scales, logits, weights
        self.align_corners = align_corners
        self._describe(logits[0], input_size)

    def rows(self, rows: slice) -> Tensor:
        """Add up the scales in some rows."""
        size = self.shape[2:]
        weights = self.weights
        if weights is not None:
            weights = self._resized(weights, (size,), rows)
        total = 0
        for i, (scale, logits) in enumerate(zip(self.scales, self.logits)):
            part = self._resized(
                logits, (scaled_size(size, scale), size), rows
            )
            if weights is not None:
                part = weights[:, i : i + 1] * part
            total = total + part
        return total if weights is not None else total / len(self.scales)

    def image(self, index: int) -> WeightedLogits:
        """Take the maps of one image."""
        return WeightedLogits(
            self.scales,
            _of_image(self.logits, index),
            *_of_image([self.weights], index),
            self.shape[2:],
            self.align_corners,
        )

    def _resized(
        self, x: Tensor, sizes: Sequence[Size], rows: slice
    ) -> Tensor:
        """Some rows of a map that is resized to one size after the other."""
        sizes = shorten((tuple(x.shape[2:]), *sizes), self.align_corners)
        steps = [rows]
        for (height, _), (out_height, _) in zip(sizes[-2::-1], sizes[:0:-1]):
            steps.append(
                source_rows(steps[-1], height, out_height, self.align_corners)
            )
        steps.reverse()
        x = x[:, :, steps[0]]
        for k in range(1, len(sizes)):
            height = sizes[k - 1][0]
            x = resize_rows(
                *(x, steps[k - 1], height, steps[k], sizes[k]),
                self.align_corners,
            )
        return x


def _of_image(
    maps: Sequence[Tensor | None], index: int
) -> list[Tensor | None]:
    return [None if x is None else x[index : index + 1] for x in maps]
