"""Some rows of a bilinear resize, from no more rows than they need.

Shape shorthand in this module:
    h, w: size of the source, H, W: size of the result, k: source rows at
    hand, R: rows of the result asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scale_fusion import Size


def source_rows(
    rows: slice, height: int, out_height: int, align_corners: bool
) -> slice:
    """Find the source rows, in [0, h), that rows of a result depend on."""
    if height == out_height:
        return rows

    def position(row: int) -> float:
        if align_corners:
            return row * (height - 1) / max(out_height - 1, 1)
        return max((row + 0.5) * height / out_height - 0.5, 0)

    # The margin is more than the rounding error of float32 positions.
    first = int(max(position(rows.start) - 0.01, 0))
    last = int(position(rows.stop - 1) + 0.01) + 1
    return slice(first, min(last + 1, height))


def resize_rows(
    x: Tensor,
    source: slice,
    height: int,
    rows: slice,
    size: Sequence[int],
    align_corners: bool,
) -> Tensor:
    """Compute some rows of ``F.interpolate(..., mode='bilinear')``.

    Differentiable. The weights are those of PyTorch: float32, float64 for maps
    of that type.

    Args:
        x (Tensor): Rows ``source`` of the map, shape (N, C, k, w).
        source (slice): Which rows these are, at least :func:`source_rows`.
        height (int): h, the height of the whole map.
        rows (slice): Rows of the result, not empty.
        size (Sequence[int]): Size (H, W) of the whole result.
        align_corners (bool): As in ``F.interpolate``.

    Returns:
        Tensor: Shape (N, C, R, W); may be a view of ``x``.
    """
    out_height, out_width = size
    if height == out_height:
        x = x[:, :, rows.start - source.start : rows.stop - source.start]
    elif x.shape[2] == height and 2 * (rows.stop - rows.start) > out_height:
        # One operation and a view.
        return interpolate(x, size, align_corners)[:, :, rows]
    elif _is_power_of_two(out_height / height) and not align_corners:
        # Positions are exact, so a part is resized as the whole is, but for
        # its first and last rows, which are not asked for.
        factor = out_height // height
        start = rows.start - source.start * factor
        x = interpolate(x, (x.shape[2] * factor, out_width), False)
        return x[:, :, start : start + rows.stop - rows.start]
    else:
        dtype = torch.promote_types(x.dtype, torch.float32)
        lower, upper, share = (
            tap[rows]
            for tap in bilinear_taps(
                height, out_height, align_corners, dtype, x.device
            )
        )
        lower, upper = (
            x.index_select(2, tap - source.start) for tap in (lower, upper)
        )
        x = torch.lerp(lower, upper, share.to(x.dtype)[:, None])
    if x.shape[3] == out_width:
        return x
    return interpolate(x, (x.shape[2], out_width), align_corners)


def _is_power_of_two(factor: float) -> bool:
    return factor > 1 and math.frexp(factor)[0] == 0.5


def interpolate(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize a whole map bilinearly, in the type that it has."""
    return F.interpolate(
        x, size=tuple(size), mode='bilinear', align_corners=align_corners
    )


# Copied to a GPU once for each size: each copy waits for it.
@lru_cache(maxsize=256)
@torch.inference_mode(False)  # training may be next to use them
def bilinear_taps(
    length: int,
    out_length: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Two source positions of each position, and the share of the second.

    In the arithmetic of PyTorch's kernels (aten/src/ATen/native/UpSample.h,
    ``area_pixel_compute_scale`` and ``area_pixel_compute_source_index``):
    another rounding of the share would show in the fourth digit at positions
    of a few thousand. Three of shape (out_length,): int64, int64 and
    ``dtype``, float32 or float64, in [0, 1].
    """
    index = torch.arange(out_length, dtype=dtype, device='cpu')
    if align_corners:
        steps = max(out_length - 1, 1)
        scale = torch.tensor(length - 1, dtype=dtype, device='cpu') / steps
        position = index * scale
    else:
        scale = torch.tensor(length, dtype=dtype, device='cpu') / out_length
        position = ((index + 0.5) * scale - 0.5).clamp_min(0)
    lower = position.long().clamp_max(length - 1)
    upper = (lower + 1).clamp_max(length - 1)
    share = (position - lower).clamp(0, 1)
    return tuple(tap.to(device) for tap in (lower, upper, share))


def needed_sizes(sizes: Sequence[Size], align_corners: bool) -> list[Size]:
    """Leave out sizes, from the source's on, that change no result.

    Beside repeated sizes this is one case: enlarged by a multiple of 4 and
    then halved. Half a pixel apart, the two points that halving averages lie
    between the same two source pixels, where the enlarged map is linear, and
    their middle is the point that a single resize reads; at the borders both
    are the border's value.
    """
    needed = [tuple(sizes[0])]
    for size in map(tuple, sizes[1:]):
        if size == needed[-1]:
            continue
        if len(needed) > 1 and not align_corners:
            source, middle = needed[-2:]
            if all(
                m % (4 * s) == 0 and m == 2 * t
                for s, m, t in zip(source, middle, size)
            ):
                needed.pop()
        needed.append(size)
    return needed


def resize_chain(
    take: Callable[[slice], Tensor],
    sizes: Sequence[Size],
    rows: slice,
    align_corners: bool,
) -> Tensor:
    """Compute some rows of a map that is resized from one size to the next.

    ``take`` gives rows of the map, (N, C, k, w), whose size is the first of
    ``sizes``. Shape (N, C, R, W); may be a view.
    """
    *before, size = needed_sizes(sizes, align_corners)
    if not before:
        return take(rows)
    height = before[-1][0]
    source = source_rows(rows, height, size[0], align_corners)
    x = resize_chain(take, before, source, align_corners)
    return resize_rows(x, source, height, rows, size, align_corners)
