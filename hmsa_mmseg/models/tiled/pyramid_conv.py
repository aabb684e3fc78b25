"""Convolution of resized and concatenated levels, without the concatenation.

mmseg's ``resize_concat`` brings the levels of a backbone to the size of the
first one and concatenates them, and a convolution reads the result. Both are
linear, so each level may be convolved on its own, the coarse ones before
they are enlarged::

    conv(cat(x_0, up(x_1), ...)) = conv_0(x_0) + conv_1(up(x_1)) + ...
    conv(up(x)) = sum_taps shift_tap(up(conv1x1_tap(x)))

``up`` acts on pixels and ``conv1x1`` on channels: they commute. A shift
fills with zeros, as the convolution pads. Of a map with f times fewer rows
and columns the products take f^2 times fewer operations. Shifts and enlarging
go along the columns first, while there are few rows.

Shape shorthand in this module:
    N: batch, C: channels of a level, O: channels of the result, k: kernel
    size, H, W: size of the first level and of the result, h, w: size of a
    level, R: rows of the result asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.execution import costs_of
from .made_again import made_again
from .row_resize import interpolate, resize_chain


def conv_of_levels(
    levels: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    align_corners: bool,
    rows: slice,
) -> Tensor:
    """Convolve the levels, resized to the first one's size and concatenated.

    Differentiable. Padding is such that the size is kept; stride and dilation
    are 1.

    Args:
        levels (Sequence[Tensor]): Shape (N, C, h, w) each, the largest first.
        weight (Tensor): Shape (O, sum of C, k, k), k odd.
        bias (Tensor, optional): Shape (O,).
        align_corners (bool): As in ``F.interpolate``.
        rows (slice): Rows of the result (N, O, R, W), not empty.
    """
    size = tuple(levels[0].shape[2:])
    parts = weight.split([x.shape[1] for x in levels], dim=1)
    # (level, its part of the kernel) pairs
    fine, coarse = [], []
    for pair in zip(levels, parts):
        (coarse if _is_coarse(pair[0], size) else fine).append(pair)
    result = _conv_of_fine(
        [x for x, _ in fine],
        torch.cat([part for _, part in fine], dim=1),
        *(bias, align_corners, rows, size),
    )
    widens = costs_of(result.device).widens and torch.is_grad_enabled()
    widens = widens and rows == slice(0, size[0])
    for x, part in coarse:
        if widens:
            result = _add_wide(result, x, part, align_corners)
            continue
        for y, taps in enumerate(part.unbind(dim=2)):
            term = _row_of_taps(x, taps, y, align_corners, rows, size)
            if term is not None:
                result += term
            # Memory that the next term may need.
            del term
    return result


def _add_wide(
    result: Tensor, x: Tensor, part: Tensor, align_corners: bool
) -> Tensor:
    """Add a level that is convolved once its columns are enlarged.

    One product for each row of the kernel is enlarged and added.
    """
    k, size = part.shape[2], result.shape[2:]
    if k > 1:
        x = interpolate(x, (x.shape[2], size[1]), align_corners)
    # (k * O, C, 1, k)
    taps = part.permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)
    x = F.conv2d(x, taps, padding=(0, k // 2))
    x = interpolate(x, size, align_corners)
    for y, product in enumerate(x.chunk(k, dim=1)):
        by = k // 2 - y
        result += F.pad(product, (0, 0, by, -by)) if by else product
    return result


def _is_coarse(x: Tensor, size: Sequence[int]) -> bool:
    """Whether to convolve a level before it is enlarged."""
    least = costs_of(x.device).coarse
    return least * x.shape[2] <= size[0] and least * x.shape[3] <= size[1]


def _conv_of_fine(
    levels: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    align_corners: bool,
    rows: slice,
    size: tuple[int, int],
) -> Tensor:
    """Enlarge, concatenate and convolve levels, (N, O, R, W)."""
    reach = weight.shape[-1] // 2
    # With the rows around these that the kernel reads, and zeros above and
    # below the map, which tiles within have none of.
    read = slice(max(rows.start - reach, 0), min(rows.stop + reach, size[0]))
    zeros = reach - (rows.start - read.start), reach - (read.stop - rows.stop)
    is_whole = zeros == (reach, reach)

    def resized() -> Tensor:
        maps = [
            resize_chain(
                lambda part, x=x: x[:, :, part],
                (x.shape[2:], size),
                read,
                align_corners,
            )
            for x in levels
        ]
        x = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
        return x if is_whole or zeros == (0, 0) else F.pad(x, (0, 0, *zeros))

    x = resized()
    with made_again(x, resized, levels):
        padding = (reach if is_whole else 0), reach
        return F.conv2d(x, weight, bias, padding=padding)


def _row_of_taps(
    x: Tensor,
    taps: Tensor,
    y: int,
    align_corners: bool,
    rows: slice,
    size: tuple[int, int],
) -> Tensor | None:
    """Convolve a level with row ``y`` of a kernel and enlarge the products.

    ``taps`` are (O, C, k). What it adds to the result, (N, O, R, W); None if
    it reads rows outside of the map alone.
    """
    k = taps.shape[2]
    start, stop = rows.start + y - k // 2, rows.stop + y - k // 2
    read = slice(max(start, 0), min(stop, size[0]))
    if read.stop <= read.start:
        return None
    # (k, O, C, 1, 1): a product for each tap
    taps = taps.permute(2, 0, 1)[..., None, None].flatten(0, 1)

    def products(part: slice) -> Tensor:
        """Some rows of the level, as wide as the result."""
        found = F.conv2d(x[:, :, part], taps)
        found = interpolate(found, (found.shape[2], size[1]), align_corners)
        first, *others = (
            _shifted(product, k // 2 - i)
            for i, product in enumerate(found.chunk(k, dim=1))
        )
        return sum(others, first)

    sizes = (x.shape[2], size[1]), size
    total = resize_chain(products, sizes, read, align_corners)
    border = read.start - start, stop - read.stop
    return F.pad(total, (0, 0, *border)) if any(border) else total


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift columns to the right and fill with zeros."""
    return F.pad(x, (by, -by)) if by else x
