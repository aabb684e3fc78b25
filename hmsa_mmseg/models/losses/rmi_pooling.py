"""Pooling of the RMI loss: 4 x 4 windows, with two pixels of zero padding.

The zeros count: the first and last windows of a row average over fewer
pixels and still divide by 16, as ``avg_pool2d`` does by default and as the
authors use it. Maps are worked on in bands of whole windows, which stay in
the cache.

Shape shorthand in this module:
    H, W: size of a map, Hp, Wp: size of a padded band, h, w: once pooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

POOL = 4
POOL_PADDING = 2


def pooled_size(size: Sequence[int]) -> tuple[int, int]:
    """Size (h, w) of a map of size (H, W) once pooled."""
    height, width = size
    return height // POOL + 1, width // POOL + 1


class Band(NamedTuple):
    """Some rows of a map, with their padding whole windows.

    Attributes:
        rows (slice): Rows of the map.
        cells (slice): Rows of the pooled map.
        padded_size (tuple[int, int]): Hp and Wp.
        inner (tuple[slice, slice]): Where in the padded band the map lies.
    """

    rows: slice
    cells: slice
    padded_size: tuple[int, int]
    inner: tuple[slice, slice]


def bands(size: Sequence[int], elements: int) -> Iterator[Band]:
    """Split a map of size (H, W) into bands of about so many elements.

    The first is the largest. Where the last row or column is in no pooled
    window (H or W is 3 modulo 4), the padding makes up one window more.
    """
    height, width = size
    h, _ = pooled_size(size)
    padded_height, padded_width = ((s + 5) // POOL * POOL for s in size)
    step = max(elements // padded_width // POOL, 1) * POOL
    cols = slice(POOL_PADDING, POOL_PADDING + width)
    for top in range(0, padded_height, step):
        bottom = min(top + step, padded_height)
        shift = top - POOL_PADDING
        rows = slice(max(shift, 0), min(bottom - POOL_PADDING, height))
        yield Band(
            rows,
            slice(top // POOL, min(bottom // POOL, h)),
            (bottom - top, padded_width),
            (slice(rows.start - shift, rows.stop - shift), cols),
        )


def pool(padded: Tensor, band: Band, width: int) -> Tensor:
    """Average the windows of a padded band.

    Args:
        padded (Tensor): Shape (k, Hp, Wp), 0 outside of the map.
        band (Band): Its band.
        width (int): w.

    Returns:
        Tensor: Shape (k, rows of ``band.cells``, w).
    """
    sums = padded.unflatten(1, (-1, POOL)).sum(2)
    # A product: a sum over so few neighbours is slower.
    share = padded.new_full((POOL,), 1 / POOL**2)
    means = sums.unflatten(2, (-1, POOL)) @ share
    height = band.cells.stop - band.cells.start
    return means[:, :height, :width]


def unpool(
    pooled: Tensor, constant: Tensor, padded_mask: Tensor, out: Tensor
) -> None:
    """Give each pixel of a mask what its window has, and a constant.

    Args:
        pooled (Tensor): Shape (k, rows of the band's cells, w).
        constant (Tensor): A scalar.
        padded_mask (Tensor): Factor of the sum, shape (Hp, Wp).
        out (Tensor): The result, a padded band (k, Hp, Wp).
    """
    mask = padded_mask.unflatten(0, (-1, POOL))
    rows, cols = mask.shape[0], mask.shape[2] // POOL
    height, width = pooled.shape[1:]
    pooled = F.pad(pooled, (0, cols - width, 0, rows - height)) + constant
    pooled = pooled.repeat_interleave(POOL, dim=2).unsqueeze(2)
    torch.mul(pooled, mask, out=out.unflatten(1, (-1, POOL)))
