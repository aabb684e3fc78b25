"""Convolution of resized and concatenated levels, without the concatenation.

mmseg's ``resize_concat`` brings the levels of a backbone to the size of the
first one and concatenates them, and a convolution reads the result. Both are
linear, so each level may be convolved on its own, the coarse ones before
they are enlarged (:mod:`.coarse_levels`)::

    conv(cat(x_0, up(x_1), ...)) = conv_0(x_0) + conv_1(up(x_1)) + ...

Shape shorthand in this module:
    N: batch, C: channels of a level, O: channels of the result, k: kernel
    size, H, W: size of the first level and of the result, h, w: size of a
    level, R: rows of the result at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.rmi_pixel_terms import refuse_create_graph
from ..utils import no_autocast
from .coarse_levels import TILE_SIZES, CoarseLevels, row_chunks
from .pointwise import channels_last, convolved, pointwise

#: Time of an operation of the products that enlarge, in operations of a
#: convolution. Measured on a CPU with 18 to 144 channels, 2 to 8 times
#: enlarged: with it :func:`_is_coarse` chooses the faster way.
_RESIZE_COST = 4


class PyramidConv:
    """A convolution of resized and concatenated levels.

    Padding is such that the size is kept; stride and dilation are 1.

    Args:
        levels (Sequence[Tensor]): Shape (N, C, h, w) each, of any sizes.
        weight (Tensor): Shape (O, sum of C, k, k), k odd.
        bias (Tensor, optional): Shape (O,). Defaults to None.
        align_corners (bool): As in ``F.interpolate``. Defaults to False.

    Raises:
        ValueError: If the levels do not have the channels that the kernel
            reads, or the kernel is not square and odd.
    """

    def __init__(
        self,
        levels: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor | None = None,
        align_corners: bool = False,
    ) -> None:
        channels = [x.shape[1] for x in levels]
        k = weight.shape[-1]
        if weight.shape[1:] != (sum(channels), k, k) or k % 2 == 0:
            raise ValueError(
                'expected a kernel (O, C, k, k) with odd k and the channels '
                f'of all levels, {channels}; got {tuple(weight.shape)}'
            )
        self.kernel_size = k
        self.bias = bias
        self.align_corners = align_corners
        size = tuple(levels[0].shape[2:])
        direct, direct_weights = [], []
        self.coarse: list[Tensor] = []
        self.coarse_weights: list[Tensor] = []
        for x, part in zip(levels, weight.split(channels, dim=1)):
            if _is_coarse(x, size, k):
                self.coarse.append(x)
                self.coarse_weights.append(part)
            else:
                direct.append(_resize(x, size, align_corners))
                direct_weights.append(part)
        one = len(direct) == 1
        self.direct = direct[0] if one else torch.cat(direct, dim=1)
        self.direct = channels_last(self.direct)
        self.direct_weight = (
            direct_weights[0] if one else torch.cat(direct_weights, dim=1)
        )

    def whole(self) -> Tensor:
        """Compute the result; differentiable once.

        Returns:
            Tensor: Shape (N, O, H, W), channels_last, of the dtype of the
            levels or, under autocast, of autocast's.
        """
        out = convolved(self._convolve(self.direct))
        if not self.coarse:
            return out
        levels, weights = self._cast(out.dtype)
        return _AddCoarseLevels.apply(
            out, self.align_corners, *levels, *weights
        )

    def rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Compute the result of a 1x1 kernel a few rows at a time.

        To be called without gradients.

        Yields:
            tuple[slice, Tensor]: Which rows these are, and the result in
            them, shape (N, O, R, W), channels_last.
        """
        assert self.kernel_size == 1, 'other kernels read rows around these'
        levels, size = None, self.direct.shape[2:]
        for rows in row_chunks(self.direct):
            out = convolved(self._convolve(self.direct[:, :, rows]))
            if self.coarse:
                if levels is None:
                    levels = CoarseLevels(
                        *self._cast(out.dtype), size, self.align_corners
                    )
                with no_autocast(out.device):
                    levels.add_rows(out, rows)
            yield rows, out

    def _convolve(self, x: Tensor) -> Tensor:
        """Convolve the levels that are enlarged first."""
        if self.kernel_size == 1:
            return pointwise(x, self.direct_weight, self.bias)
        padding = self.kernel_size // 2
        return F.conv2d(x, self.direct_weight, self.bias, padding=padding)

    def _cast(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Coarse levels and weights in the dtype of the convolution's result.

        Under autocast that is not theirs.
        """
        return (
            [x.to(dtype) for x in self.coarse],
            [x.to(dtype) for x in self.coarse_weights],
        )


def _resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(
        x, size=tuple(size), mode='bilinear', align_corners=align_corners
    )


def _is_coarse(x: Tensor, size: Sequence[int], kernel_size: int) -> bool:
    """Whether it pays to convolve a level before it is enlarged.

    Operations for each value of the result: what a smaller map saves in the
    convolution, and what it takes to enlarge the products, along the columns
    and then along the rows, with the matrices of :class:`CoarseLevels`.
    """
    (h, w), (height, width), k = x.shape[2:], size, kernel_size
    if h >= height or w >= width:
        return False
    saved = 2 * k**2 * x.shape[1] * (1 - h * w / (height * width))
    tile_height, tile_width = TILE_SIZES['cpu']
    row_band = tile_height * h / height + 2
    col_band = tile_width * w / width + 2
    enlarging = 2 * k * (row_band + k * row_band * col_band / tile_height)
    return saved > _RESIZE_COST * enlarging


class _AddCoarseLevels(torch.autograd.Function):
    """Adds what coarse levels contribute to the result, in place.

    Of the products nothing is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, align_corners: bool, *tensors: Tensor
    ) -> Tensor:
        """Add to ``out`` (N, O, H, W); ``tensors``: levels, then weights."""
        ctx.mark_dirty(out)
        ctx.save_for_backward(*tensors)
        ctx.align_corners = align_corners
        with no_autocast(out.device):
            half = len(tensors) // 2
            levels = CoarseLevels(
                tensors[:half], tensors[half:], out.shape[2:], align_corners
            )
            for rows in row_chunks(out):
                levels.add_rows(out[:, :, rows], rows)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """Return the gradients of what ``forward`` takes."""
        refuse_create_graph('a convolution of coarse levels')
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        half = len(tensors) // 2
        if not any(needed):
            return grad, None, *[None] * len(needed)
        grad = channels_last(grad)
        # Sums over many rows: in float32 or better.
        dtype = torch.promote_types(grad.dtype, torch.float32)
        with no_autocast(grad.device):
            levels = CoarseLevels(
                tensors[:half],
                tensors[half:],
                grad.shape[2:],
                ctx.align_corners,
            )
            level_grads = [
                torch.zeros_like(x, dtype=dtype) if wanted else None
                for x, wanted in zip(levels.levels, needed[:half])
            ]
            kernel_grads = [
                [
                    torch.zeros_like(x, dtype=dtype) if wanted else None
                    for x in kernels
                ]
                for kernels, wanted in zip(levels.kernels, needed[half:])
            ]
            for rows in row_chunks(grad):
                levels.add_gradients(
                    grad[:, :, rows], rows, level_grads, kernel_grads
                )
        weight_grads = [
            levels.join(kernels) if wanted else None
            for kernels, wanted in zip(kernel_grads, needed[half:])
        ]
        grads = [
            None if found is None else found.to(x.dtype)
            for found, x in zip(level_grads + weight_grads, tensors)
        ]
        return grad, None, *grads
