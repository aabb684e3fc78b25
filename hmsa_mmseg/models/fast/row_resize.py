"""Some rows of a bilinear resize, from no more rows than they need.

A row of the result depends on two rows of the source. Maps larger than the
memory, or than the cache, are made and used up a few rows at a time.

Shape shorthand in this module:
    h, w: size of the source, H, W: size of the result, k: source rows at
    hand, R: rows of the result asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def source_rows(
    rows: slice, height: int, out_height: int, align_corners: bool
) -> slice:
    """Find the source rows that some rows of a resized map depend on.

    Args:
        rows (slice): Rows of the result, not empty.
        height (int): h.
        out_height (int): H.
        align_corners (bool): As in ``F.interpolate``.

    Returns:
        slice: Rows of the source, within [0, h).
    """
    if height == out_height:
        return rows
    return slice(
        *_source_ends(rows.start, rows.stop, height, out_height, align_corners)
    )


@lru_cache(maxsize=4096)  # a GPU is through with a tile in the same time
def _source_ends(
    start: int, stop: int, height: int, out_height: int, align_corners: bool
) -> tuple[int, int]:
    ends = torch.tensor([start, stop - 1], device='cpu')
    lower, upper, _ = bilinear_taps(ends, height, out_height, align_corners)
    # One more at each end: float32 and float64 may round to different rows.
    return max(int(lower[0]) - 1, 0), min(int(upper[1]) + 2, height)


def resize_rows(
    x: Tensor,
    source: slice,
    height: int,
    rows: slice,
    size: Sequence[int],
    align_corners: bool,
) -> Tensor:
    """Compute some rows of ``F.interpolate(..., mode='bilinear')``.

    Differentiable. The weights are those of PyTorch: float32, float64 for
    maps of that type.

    Args:
        x (Tensor): Rows ``source`` of the map, shape (N, C, k, w).
        source (slice): Which rows these are, at least those of
            :func:`source_rows`.
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
    else:
        dtype = torch.promote_types(x.dtype, torch.float32)
        lower, upper, share = _taps(
            rows, height, out_height, align_corners, dtype, x.device
        )
        lower, upper = (
            x.index_select(2, tap - source.start) for tap in (lower, upper)
        )
        x = torch.lerp(lower, upper, share[:, None])
    if x.shape[3] == out_width:
        return x
    # The heights agree: this resizes the width alone.
    return F.interpolate(
        x,
        size=(x.shape[2], out_width),
        mode='bilinear',
        align_corners=align_corners,
    )


def _taps(
    rows: slice,
    height: int,
    out_height: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    """Taps of some rows, see :func:`bilinear_taps`, on a device."""
    sizes = height, out_height, align_corners, dtype
    if device.type in ('cpu', 'meta'):
        index = torch.arange(rows.start, rows.stop)
        return [tap.to(device) for tap in bilinear_taps(index, *sizes)]
    # A copy to a GPU waits for all that it has been given to do: one for
    # all tiles, and for all calls.
    return [tap[rows] for tap in _taps_of_all_rows(*sizes, device)]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may be next to use them
def _taps_of_all_rows(
    height: int,
    out_height: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    taps = bilinear_taps(
        torch.arange(out_height, device='cpu'),
        height,
        out_height,
        align_corners,
        dtype,
    )
    return [tap.to(device) for tap in taps]


def bilinear_taps(
    index: Tensor,
    length: int,
    out_length: int,
    align_corners: bool,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Two source positions of each position, and the share of the second.

    In the arithmetic of PyTorch's kernels (``area_pixel_compute_scale`` and
    ``area_pixel_compute_source_index``): another rounding of the share would
    show in the fourth digit at positions of a few thousand.
    """
    index = index.to(dtype)
    if align_corners:
        steps = max(out_length - 1, 1)
        scale = torch.tensor(float(length - 1), dtype=dtype) / steps
        position = index * scale
        if out_length == 1:
            position = torch.zeros_like(position)
    else:
        scale = torch.tensor(float(length), dtype=dtype) / out_length
        position = ((index + 0.5) * scale - 0.5).clamp_min(0)
    lower = position.long().clamp_max(length - 1)
    upper = (lower + 1).clamp_max(length - 1)
    return lower, upper, (position - lower).clamp(0, 1)
