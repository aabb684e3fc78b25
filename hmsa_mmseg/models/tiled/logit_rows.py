"""Logits that are made a few rows at a time, when they are asked for.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale, R: rows asked for.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..scale_fusion import blend_size, in_float32, scaled_size
from ..utils.execution import row_tiles
from .row_resize import resize_chain, resize_rows, source_rows

#: Gives rows of a map by the map's number, (N, any, rows, any).
Take = Callable[[int, slice], Tensor]


class LogitRows(metaclass=ABCMeta):
    """Logits of a known size, each row made of rows of smaller maps.

    Attributes:
        maps (Sequence[Tensor]): What they are made of.
        shape (tuple[int]): (N, K, H, W).
        dtype (torch.dtype): Of the logits.
        device (torch.device): Of the logits.
    """

    def __init__(self, maps: Sequence[Tensor], size: Sequence[int]) -> None:
        self.maps = maps
        self.shape = (*maps[0].shape[:2], *size)
        self.dtype, self.device = maps[0].dtype, maps[0].device

    @abstractmethod
    def make(self, rows: slice, take: Take) -> Tensor:
        """Make some rows, (N, K, R, W); differentiable, and may be a view.

        Args:
            rows (slice): Not empty, within [0, H).
            take (Callable): Is asked for the rows of ``maps`` that are needed;
                these may be views, and of any number of images.
        """

    def rows(self, rows: slice) -> Tensor:
        """Make some rows, (N, K, R, W); they may be a view: do not write."""
        return self.make(rows, lambda i, part: self.maps[i][:, :, part])

    def all_rows(self) -> Tensor:
        """Make all rows at once, (N, K, H, W), as :meth:`rows`."""
        return self.rows(slice(0, self.shape[2]))

    def image(self, index: int) -> LogitRows:
        """The logits of one image, (1, K, H, W)."""
        one = copy(self)
        one.maps = [x[index : index + 1] for x in self.maps]
        one.shape = (1, *self.shape[1:])
        return one

    def tiles(self, pool: int = 1, offset: int = 0) -> list[slice]:
        """Split the rows into tiles, with cuts as :func:`row_tiles` says."""
        num_images, channels, height, width = self.shape
        row_bytes = num_images * channels * width * 4
        return row_tiles(height, row_bytes, self.device, pool, offset)

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

    def make(self, rows: slice, take: Take) -> Tensor:
        """The same rows."""
        return take(0, rows)

    def whole(self) -> Tensor:
        """The logits."""
        return self.maps[0]


class FusedLogits(LogitRows):
    """What :func:`..scale_fusion.fuse_scales` gives, row by row.

    Scales are highest first; the attention of the first is not read.
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
        self.align_corners = align_corners
        self.map_sizes = [x.shape[2:] for x in maps]
        self.image_sizes = [scaled_size(input_size, s) for s in scales]
        # Of each scale's blend, and of the result.
        self.blend_sizes = [blend_size(input_size, s) for s in scales]
        self.blend_sizes.append(tuple(input_size))

    def make(self, rows: slice, take: Take) -> Tensor:
        """Blend all scales."""
        return self._fused(len(self.image_sizes) - 1, rows, take)

    def _fused(self, i: int, rows: slice, take: Take) -> Tensor:
        """Blend the scales up to number ``i``, at the size of the next blend.

        As :func:`..scale_fusion.blend_scale` does.
        """
        image, (blend, target) = self.image_sizes[i], self.blend_sizes[i:][:2]
        if i == 0:
            # Nothing is multiplied before the first blend, or the result: one
            # chain of resizes.
            return self._resized(take, 0, (image, blend, target), rows)

        def blended(rows: slice) -> Tensor:
            fused = self._fused(i - 1, rows, take)
            part = source_rows(rows, image[0], blend[0], self.align_corners)
            number = len(self.image_sizes) + i - 1
            attn = self._resized(take, number, (image,), part)
            x = attn * self._resized(take, i, (image,), part)
            to_blend = part, image[0], rows, blend, self.align_corners
            x, attn = resize_rows(x, *to_blend), resize_rows(attn, *to_blend)
            if not torch.is_grad_enabled():
                return torch.addcmul(x, 1 - attn, fused)

            def again() -> Tensor:
                return self._fused(i - 1, rows, take)

            return _Blend.apply(x, attn, fused, again)

        return resize_chain(blended, (blend, target), rows, self.align_corners)

    def _resized(
        self, take: Take, i: int, sizes: Sequence[Sequence[int]], rows: slice
    ) -> Tensor:
        """Rows of a map after resizes, by its number."""
        sizes = self.map_sizes[i], *sizes
        return resize_chain(partial(take, i), sizes, rows, self.align_corners)


class _Blend(Function):
    """``x + (1 - attn) * fused``, where ``fused`` is made again for it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        attn: Tensor,
        fused: Tensor,
        again: Callable[[], Tensor],
    ) -> Tensor:
        """Blend."""
        rest = 1 - attn
        ctx.again = again
        ctx.save_for_backward(rest)
        return torch.addcmul(x, rest, fused)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """One map of this size at a time."""
        (rest,) = ctx.saved_tensors
        of_attn = of_fused = None
        if ctx.needs_input_grad[1]:
            of_attn = (ctx.again() * grad).sum(dim=1, keepdim=True).neg()
        if ctx.needs_input_grad[2]:
            of_fused = grad * rest
        return grad, of_attn, of_fused, None
