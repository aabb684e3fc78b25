"""One scale in overlapping windows: an approximation that bounds memory.

What a network sees of a window ends at its borders: features near them, and
whatever gathers over the whole image (OCR, pooling, attention), differ from
those of the whole image. Logits and attention of windows are averaged where
they overlap.

Shape shorthand in this module:
    N: batch, K: classes, H, W: size of the image at this scale, h, w: size
    of its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..decode_heads.hierarchical_ms_attention_head import ScaleMaps
from ..scale_fusion import Size

#: Windows begin at multiples of it: the total stride of most networks, so
#: that a window's grids of features lie on those of the whole image.
GRID = 32


def lay_windows(length: int, window: int) -> list[slice]:
    """Lay windows over one side, a third of a window or more overlapping.

    Args:
        length (int): Of the side.
        window (int): Length of a window, a multiple of :data:`GRID` or at
            least ``length``.

    Returns:
        list[slice]: Windows that begin at multiples of :data:`GRID`; the
        last ends with the side, and may be shorter by less than that.
    """
    if window >= length:
        return [slice(0, length)]
    stride = max(window * 2 // 3 // GRID * GRID, GRID)
    last = -(-(length - window) // GRID) * GRID
    starts = [*range(0, length - window, stride), last]
    return [slice(start, min(start + window, length)) for start in starts]


def decode_in_windows(
    decode: Callable[[Tensor], ScaleMaps],
    image: Tensor,
    window: Size,
    map_size: Size,
) -> ScaleMaps:
    """Compute the maps of one scale window by window.

    Args:
        decode (Callable): Gives the maps of a window.
        image (Tensor): At this scale, shape (N, 3, H, W).
        window (tuple[int]): Height and width of a window.
        map_size (tuple[int]): (h, w), the size that the maps of the whole
            image would have.

    Returns:
        ScaleMaps: Logits (N, K, h, w) and attention (N, 1, h, w) or None,
        float32 or float64.

    Raises:
        ValueError: If the maps of windows do not lie on the grid of those of
            the whole image.
    """
    size = image.shape[2:]
    windows = [lay_windows(*side) for side in zip(size, window)]
    places = [_places(*side) for side in zip(windows, size, map_size)]
    totals = None
    for y, y_place in zip(windows[0], places[0]):
        for x, x_place in zip(windows[1], places[1]):
            maps = decode(image[:, :, y, x])
            place = y_place.stop - y_place.start, x_place.stop - x_place.start
            if tuple(maps.seg_logits.shape[2:]) != place:
                raise ValueError(
                    f'{_MISFIT}; a window of {y.stop - y.start} x '
                    f'{x.stop - x.start} pixels gave maps of '
                    f'{tuple(maps.seg_logits.shape[2:])}'
                )
            if totals is None:
                totals = ScaleMaps(*(_zeros(one, map_size) for one in maps))
            for total, one in zip(totals, maps):
                if total is not None:
                    total[:, :, y_place, x_place] += one
            # Memory that the next window may need.
            del maps, one
    counts = [totals[0].new_zeros(length) for length in map_size]
    for count, side in zip(counts, places):
        for place in side:
            count[place] += 1
    for total in totals:
        if total is not None:
            total.div_(counts[0][:, None] * counts[1])
    return totals


def _zeros(one: Tensor | None, map_size: Size) -> Tensor | None:
    """A sum to begin with, in float32 or better."""
    if one is None:
        return None
    return one.new_zeros(
        (*one.shape[:2], *map_size),
        dtype=torch.promote_types(one.dtype, torch.float32),
    )


def _places(
    windows: Sequence[slice], length: int, map_length: int
) -> list[slice]:
    """Where the maps of windows lie in that of the image, along one side."""
    if len(windows) == 1:
        return [slice(0, map_length)]
    for step in (1, 2, 4, 8, 16, GRID):
        # Networks round up where a side does not divide.
        if -(-length // step) == map_length:
            return [
                slice(w.start // step, -(-w.stop // step)) for w in windows
            ]
    raise ValueError(
        f'{_MISFIT}; an image side of {length} pixels gave {map_length} '
        'positions'
    )


_MISFIT = (
    "model.test_cfg.over_budget='slide' needs a network whose maps are the "
    f'image divided by 1, 2, 4, ... or {GRID}, rounded up'
)
