"""How much is made at once.

On a processor a tile stays in the cache; a GPU has to be filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeVar

import torch

_Tile = TypeVar('_Tile')

#: Bytes of the logits in a tile of rows, by the kind of device; all that is
#: made of it in training is some ten times that. On a GPU each tile costs the
#: start of more than a hundred kernels.
TILE_BYTES = {'cpu': 2 << 20, 'cuda': 64 << 20}
_limit: ContextVar[int | None] = ContextVar('tile_limit', default=None)
# The kind of device that a pass on `meta` is a rehearsal for.
_rehearsed: ContextVar[str | None] = ContextVar('rehearsed', default=None)


def kind_of(device: torch.device) -> str:
    """The kind of device for which tiles are made: ``cpu`` or ``cuda``."""
    kind = _rehearsed.get() if device.type == 'meta' else device.type
    return kind if kind in TILE_BYTES else 'cpu'


@contextmanager
def rehearsal_for(device_type: str) -> Iterator[None]:
    """Count within it what a pass on another device would allocate.

    ``meta`` tensors are cut as on that device, and of tiles of which none
    takes more memory than the first that one is enough, see :func:`alike`.

    Args:
        device_type (str): The device.
    """
    token = _rehearsed.set(device_type)
    try:
        yield
    finally:
        _rehearsed.reset(token)


def alike(tiles: Iterator[_Tile]) -> Iterator[_Tile]:
    """Iterate over tiles of which each takes the same memory, and keeps none.

    Args:
        tiles (Iterator): The tiles, the largest first.

    Returns:
        Iterator: All of them, or, in a rehearsal, the first.
    """
    return tiles if _rehearsed.get() is None else islice(tiles, 1)


def rehearsed_part(tiles: list[_Tile], count: int) -> list[_Tile]:
    """Choose what a rehearsal runs through of tiles of about one size.

    Args:
        tiles (list): All of them.
        count (int): As many as show what there is at once.

    Returns:
        list: The same, or, in a rehearsal, that many from the middle, where
        no border cuts off what a tile depends on.
    """
    first = (len(tiles) - count) // 2
    if _rehearsed.get() is None or first <= 0:
        return tiles
    return tiles[first : first + count]


@contextmanager
def limit_tiles(tile_bytes: int | None) -> Iterator[None]:
    """Let tiles of rows be smaller within it.

    Args:
        tile_bytes (int, optional): The most bytes of a tile's logits, if
            that is less than :data:`TILE_BYTES`. None is no limit.
    """
    token = _limit.set(tile_bytes)
    try:
        yield
    finally:
        _limit.reset(token)


def row_tiles(height: int, row_bytes: int, device: torch.device) -> list:
    """Split a map into tiles of rows.

    Args:
        height (int): H.
        row_bytes (int): Bytes of one row of all that is made of a tile.
        device (torch.device): Where; see :data:`TILE_BYTES`.

    Returns:
        list[slice]: Rows of each tile, from the top.
    """
    tile_bytes = TILE_BYTES[kind_of(device)]
    limit = _limit.get()
    if limit is not None:
        tile_bytes = min(tile_bytes, limit)
    step = max(tile_bytes // row_bytes, 1)
    return [slice(y, min(y + step, height)) for y in range(0, height, step)]
