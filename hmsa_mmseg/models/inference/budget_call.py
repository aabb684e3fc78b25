"""A call of a segmentor by what its memory depends on, and how it is cut.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: size of a scale's maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..fast.restored_logits import padding_of
from ..scale_fusion import Size

if TYPE_CHECKING:
    from ..segmentors.settings import InferenceSettings

KEY = 'model.test_cfg.memory_budget'


class ResultPlace(NamedTuple):
    """Where the result of one image lies in the network's input.

    Attributes:
        ori_shape (tuple[int]): Original size (h, w) of the image.
        padding_size (tuple[int]): Left, right, top and bottom.
        flip (bool): Whether it was flipped.
        flip_direction (str | None): How.
    """

    ori_shape: Size
    padding_size: tuple[int, ...] = (0, 0, 0, 0)
    flip: bool = False
    flip_direction: str | None = None

    @property
    def pixels(self) -> int:
        """Pixels of the result."""
        return math.prod(self.ori_shape)


def places_of(metas: Sequence[Mapping]) -> tuple[ResultPlace, ...]:
    """Read where the results of images lie in the network's input."""
    return tuple(
        ResultPlace(
            tuple(meta['ori_shape']),
            tuple(padding_of(meta)),
            bool(meta.get('flip')),
            meta.get('flip_direction'),
        )
        for meta in metas
    )


class Call(NamedTuple):
    """One call of a model, by all that its memory depends on.

    Attributes:
        shape (tuple[int]): Of the images, (N, 3, H, W).
        dtype (torch.dtype): Of the images.
        device (torch.device): Of the images.
        half (torch.dtype | None): Autocast's type.
        settings (InferenceSettings): With a memory budget.
        places (tuple | None): If results without logits are asked for, the
            :class:`ResultPlace` of each; None for logits.
        reserved (int): Bytes of the budget that are taken already.
        fuses_in_rows (bool): Of the decode head.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    half: torch.dtype | None
    settings: InferenceSettings
    places: tuple[ResultPlace, ...] | None
    reserved: int
    fuses_in_rows: bool

    @property
    def size(self) -> Size:
        """H and W."""
        return self.shape[2:]

    @property
    def wide(self) -> torch.dtype:
        """Type of maps and logits."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def wide_bytes(self) -> int:
        """Bytes of a number of it."""
        return torch.finfo(self.wide).bits // 8

    @property
    def text(self) -> str:
        """What the call sees."""
        height, width = self.size
        images = f'{self.shape[0]} images'
        if self.shape[0] == 1:
            images = 'an image'
        return f'{images} of {height} x {width}'


class Plan(NamedTuple):
    """How a call is cut.

    Attributes:
        batch (int): Images at a time: all or one.
        windows (tuple): For each scale, highest first, the size of its
            windows, None where it is computed whole.
        map_sizes (tuple): For each scale (h, w) of its maps.
        tile_bytes (int | None): Bytes of a tile of the blend's logits; None
            for the usual ones.
        peak (int): Bytes that it will take, what is reserved included.
    """

    batch: int
    windows: tuple[Size | None, ...]
    map_sizes: tuple[Size, ...]
    tile_bytes: int | None
    peak: int


def too_little(
    call: Call, scale: float, takes: int, window: Size | None = None
) -> str:
    """Say that a scale does not fit, and what can be done.

    Args:
        call (Call): What is asked for.
        scale (float): The scale.
        takes (int): Bytes that it needs, with all that is held meanwhile.
        window (tuple[int], optional): Size of its windows, if it has any.

    Returns:
        str: The message.
    """
    budget = call.settings.memory_budget
    of_what = f'scale {scale:g} of {call.text}'
    ways = (
        f'raise it to {takes} or more, or set model.test_cfg.over_budget='
        "'slide', which computes that scale in overlapping windows, an "
        'approximation'
    )
    if window is not None:
        of_what += f' even in windows of {window[0]} x {window[1]}'
        ways = 'raise it, or test at lower scales'
    return (
        f'{KEY}={budget} ({bytes_text(budget)}) is too little for {of_what}: '
        f'{bytes_text(takes)} are needed in one piece; {ways}'
    )


def bytes_text(num_bytes: int) -> str:
    """Bytes as a human reads them."""
    if num_bytes < 1e9:
        return f'{num_bytes / 1e6:.3g} MB'
    return f'{num_bytes / 1e9:.3g} GB'
