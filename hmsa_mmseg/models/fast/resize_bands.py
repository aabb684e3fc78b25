"""A bilinear resize along one axis as matrices, one for each tile of it.

The weights of a linear resize are a matrix with two numbers in each row. Cut
into tiles of neighbouring rows, it is zero but for a narrow band of columns
in each tile: these bands are small, dense matrices.

Shape shorthand in this module:
    T: tiles, t: positions of a tile, b: width of the bands, k: taps of a
    kernel along the axis.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .row_resize import bilinear_taps


class Bands(NamedTuple):
    """The shifted resizes of one axis.

    Attributes:
        starts (tuple[int]): For each tile, the first position of the source
            that its band reads.
        matrices (Tensor): Shape (T, t, b, k). Entry (i, j, tap) of a tile's
            matrix is the weight of position ``start + j`` of the source in
            position ``i + tap - k // 2`` of the result, both in the tile's
            own count; 0 where that is outside of the result. The last tile
            may go on beyond the result: its rows there mean nothing.
    """

    starts: tuple[int, ...]
    matrices: Tensor

    @property
    def width(self) -> int:
        """Positions of the source in a band, b."""
        return self.matrices.shape[2]


@lru_cache(maxsize=256)
def resize_bands(
    length: int,
    out_length: int,
    kernel_size: int,
    tile: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Bands:
    """Make the matrices of one axis.

    Args:
        length (int): Of the source.
        out_length (int): Of the result.
        kernel_size (int): k, odd: the result is shifted by each tap of a
            convolution of this size, and filled with zeros, as the
            convolution pads it.
        tile (int): t, positions of the result in a tile.
        align_corners (bool): As in ``F.interpolate``.
        dtype (torch.dtype): Of the matrices; the weights are computed in
            float32 or better.
        device (torch.device): Of the matrices.

    Returns:
        Bands: The matrices.
    """
    num_tiles = -(-out_length // tile)
    reach = kernel_size // 2
    inner = torch.promote_types(dtype, torch.float32)
    # Each position that some tap sees, outside of the result too.
    index = torch.arange(-reach, num_tiles * tile + reach, device='cpu')
    lower, upper, share = bilinear_taps(
        index.clamp(0, out_length - 1),
        length,
        out_length,
        align_corners,
        inner,
    )
    inside = ((index >= 0) & (index < out_length)).to(inner)
    # (T, t, k): the same, as the taps see it from each position.
    lower, upper, share, inside = (
        x.unfold(0, kernel_size, 1).reshape(num_tiles, tile, kernel_size)
        for x in (lower, upper, share, inside)
    )
    starts = lower.flatten(1).amin(dim=1)
    width = int((upper.flatten(1).amax(dim=1) - starts).max()) + 1
    starts = starts.clamp(max=length - width)
    matrices = torch.zeros(
        num_tiles, tile, width, kernel_size, dtype=inner, device='cpu'
    )
    for position, weight in ((lower, 1 - share), (upper, share)):
        column = (position - starts[:, None, None])[:, :, None]
        matrices.scatter_add_(2, column, (weight * inside)[:, :, None])
    return Bands(
        tuple(starts.tolist()), matrices.to(device=device, dtype=dtype)
    )
