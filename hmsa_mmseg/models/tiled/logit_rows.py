"""Logits that are made a few rows at a time, when they are asked for.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale, R: rows asked for.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..scale_fusion import (
    Size,
    blend_size,
    fuse_scales,
    in_float32,
    scaled_size,
)
from ..utils import row_tiles
from .row_resize import ResizeChain


class LogitRows(metaclass=ABCMeta):
    """Logits of a known size, each row made of rows of smaller maps.

    Attributes:
        maps (list[Tensor]): What they are made of.
        shape (tuple[int]): (N, K, H, W).
        dtype (torch.dtype): Of the logits.
        device (torch.device): Of the logits.
    """

    def __init__(self, maps: Sequence[Tensor], size: Sequence[int]) -> None:
        self.maps = list(maps)
        self.shape = (*maps[0].shape[:2], *size)
        self.dtype, self.device = maps[0].dtype, maps[0].device

    @abstractmethod
    def sources(self, rows: slice) -> list[slice]:
        """Find the rows of each map that some rows depend on.

        Args:
            rows (slice): Not empty, within [0, H).
        """

    @abstractmethod
    def compute(self, parts: Sequence[Tensor], rows: slice) -> Tensor:
        """Make rows of those of :meth:`sources`; differentiable.

        Args:
            parts (Sequence[Tensor]): Of each map, its rows.
            rows (slice): Which rows to make.

        Returns:
            Tensor: Shape (N, K, R, W); may be a view of a part.
        """

    @abstractmethod
    def with_maps(self, maps: Sequence[Tensor]) -> LogitRows:
        """Make the same of other maps of the same sizes."""

    def parts(self, sources: Sequence[slice]) -> list[Tensor]:
        """Give rows of each map, those of :meth:`sources`, as views."""
        return [x[:, :, rows] for x, rows in zip(self.maps, sources)]

    def rows(self, rows: slice) -> Tensor:
        """Make some rows, (N, K, R, W); they may be a view: do not write."""
        return self.compute(self.parts(self.sources(rows)), rows)

    def image(self, index: int) -> LogitRows:
        """The logits of one image, (1, K, H, W)."""
        return self.with_maps([x[index : index + 1] for x in self.maps])

    def tiles(self) -> list[slice]:
        """Split the rows into tiles."""
        num_images, channels, height, width = self.shape
        return row_tiles(
            height, num_images * channels * width * 4, self.device
        )

    def whole(self) -> Tensor:
        """Make all rows, (N, K, H, W), tile by tile; without gradients."""
        tiles = self.tiles()
        if len(tiles) == 1:
            return self.rows(tiles[0])
        result = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for rows in tiles:
            result[:, :, rows] = self.rows(rows)
        return result


class WholeLogits(LogitRows):
    """Logits that are there already.

    Args:
        logits (Tensor): Shape (N, K, H, W).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__([logits], logits.shape[2:])

    def sources(self, rows: slice) -> list[slice]:
        """The same rows."""
        return [rows]

    def compute(self, parts: Sequence[Tensor], rows: slice) -> Tensor:
        """The only part."""
        return parts[0]

    def with_maps(self, maps: Sequence[Tensor]) -> WholeLogits:
        """Take other logits."""
        return WholeLogits(maps[0])

    def whole(self) -> Tensor:
        """The logits."""
        return self.maps[0]


def fused_rows(
    scales: Sequence[float],
    logits: Sequence[Tensor],
    attns: Sequence[Tensor | None],
    input_size: Sequence[int],
    align_corners: bool,
) -> LogitRows:
    """Get ready to do what :func:`..scale_fusion.fuse_scales` does.

    Args:
        scales (Sequence[float]): Relative image sizes, highest first.
        logits (Sequence[Tensor]): Of each scale, (N, K, h, w).
        attns (Sequence[Tensor | None]): Of each scale, in [0, 1], (N, 1,
            any, any); that of the first is not read.
        input_size (Sequence[int]): H and W.
        align_corners (bool): As in ``F.interpolate``.

    Returns:
        LogitRows: Whole ones where attention is of another size than the
        logits, as it may be with K-Net.
    """
    args = input_size, align_corners
    if any(a.shape[2:] != x.shape[2:] for a, x in zip(attns[1:], logits[1:])):
        return WholeLogits(fuse_scales(zip(scales, logits, attns), *args))
    return FusedLogits(scales, logits, attns, *args)


class FusedLogits(LogitRows):
    """What :func:`..scale_fusion.fuse_scales` gives, row by row.

    Args:
        scales (Sequence[float]): Relative image sizes, highest first.
        logits (Sequence[Tensor]): Of each scale, (N, K, h, w).
        attns (Sequence[Tensor | None]): Of each scale, in [0, 1], the same
            size (N, 1, h, w); that of the first is not read.
        input_size (Sequence[int]): H and W.
        align_corners (bool): As in ``F.interpolate``.

    Raises:
        ValueError: If there is no scale.
    """

    def __init__(
        self,
        scales: Sequence[float],
        logits: Sequence[Tensor],
        attns: Sequence[Tensor | None],
        input_size: Sequence[int],
        align_corners: bool,
    ) -> None:
        if not scales:
            raise ValueError('FusedLogits needs at least one scale, got none')
        maps = [in_float32(x) for x in (*logits, *attns[1:])]
        super().__init__(maps, input_size)
        self.scales, self.align_corners = tuple(scales), align_corners
        # Of each scale the sizes that its maps run through: that of the
        # head's output, of the image at that scale, and of the blend.
        paths = []
        for scale, x in zip(scales, logits):
            scale_size = scaled_size(input_size, scale)
            size = blend_size(input_size, scale)
            paths.append((tuple(x.shape[2:]), scale_size, size))
        # The highest scale is not multiplied by anything before the first
        # blend, or the result: one chain of resizes.
        targets = [*(path[2] for path in paths[1:]), tuple(input_size)]
        self.top = ResizeChain((*paths[0], targets[0]), align_corners)
        self.lower = [
            _LowerScale(path, target, align_corners)
            for path, target in zip(paths[1:], targets[1:])
        ]

    def sources(self, rows: slice) -> list[slice]:
        """Rows of each scale's logits, then of attention."""
        found = []
        for scale in self.lower[::-1]:
            rows = scale.link.rows(rows)[0]
            found.append(scale.to_image.rows(scale.to_blend.rows(rows)[0])[0])
        found.append(self.top.rows(rows)[0])
        found.reverse()
        return [*found, *found[1:]]

    def compute(self, parts: Sequence[Tensor], rows: slice) -> Tensor:
        """Blend the scales in some rows, as :func:`blend_scale` does."""
        count = len(self.scales)
        blends = [rows]
        for scale in self.lower[::-1]:
            blends.append(scale.link.rows(blends[-1])[0])
        blends.reverse()
        fused = self.top(parts[0], self.top.rows(blends[0]))
        for scale, x, attn, here, after in zip(
            self.lower, parts[1:count], parts[count:], blends, blends[1:]
        ):
            up = scale.to_blend.rows(here)
            to_image = scale.to_image.rows(up[0])
            attn = scale.to_image(attn, to_image)
            x = attn * scale.to_image(x, to_image)
            x, attn = scale.to_blend(x, up), scale.to_blend(attn, up)
            fused = x + (1 - attn) * fused
            fused = scale.link(fused, scale.link.rows(after))
        return fused

    def with_maps(self, maps: Sequence[Tensor]) -> FusedLogits:
        """Take other maps."""
        count = len(self.scales)
        return FusedLogits(
            self.scales,
            maps[:count],
            [None, *maps[count:]],
            self.shape[2:],
            self.align_corners,
        )


class _LowerScale:
    """The resizes of a scale that is blended into higher ones.

    Args:
        path (Sequence[tuple]): Sizes of its maps, of the image at this scale
            and of the blend.
        target (tuple[int]): Size of the next blend, or of the result.
        align_corners (bool): As in ``F.interpolate``.
    """

    def __init__(
        self, path: Sequence[Size], target: Size, align_corners: bool
    ) -> None:
        # The product with attention lies between these two.
        self.to_image = ResizeChain(path[:2], align_corners)
        self.to_blend = ResizeChain(path[1:], align_corners)
        self.link = ResizeChain((path[2], target), align_corners)
