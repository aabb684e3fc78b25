"""Logits of one image as the image was before padding, flip and resize.

Shape shorthand in this module:
    K: output channels (classes), H, W: size of the network's input, h, w:
    original size of an image, R: rows asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..scale_fusion import Size
from .logit_rows import LogitRows, WholeLogits
from .row_resize import resize_rows, source_rows
from .tiles import row_tiles


def without_padding(x: Tensor, meta: Mapping) -> Tensor:
    """Cut off what the preprocessor has padded.

    Args:
        x (Tensor): Any map of the network's input, shape (..., H, W).
        meta (Mapping): Of the image, with ``img_padding_size`` or
            ``padding_size``: left, right, top, bottom.

    Returns:
        Tensor: A view of ``x``.
    """
    left, right, top, bottom = padding_of(meta)
    height, width = x.shape[-2:]
    return x[..., top : height - bottom, left : width - right]


def size_without_padding(shape: Sequence[int], meta: Mapping) -> Size:
    """Size of an image without what the preprocessor has padded.

    Args:
        shape (Sequence[int]): Of a map of the network's input, (..., H, W).
        meta (Mapping): Of the image, see :func:`without_padding`.

    Returns:
        tuple[int, int]: Height and width.
    """
    left, right, top, bottom = padding_of(meta)
    return shape[-2] - top - bottom, shape[-1] - left - right


def flip_dim(meta: Mapping) -> int | None:
    """Find the dimension along which an image has been flipped.

    Args:
        meta (Mapping): Of the image, with ``flip`` and ``flip_direction``.

    Returns:
        int | None: -1, -2, or None if it has not been flipped.

    Raises:
        ValueError: If the direction is another one.
    """
    if not meta.get('flip'):
        return None
    direction = meta.get('flip_direction')
    if direction not in ('horizontal', 'vertical'):
        raise ValueError(
            'flip_direction of an image must be horizontal or vertical, got '
            f'{direction!r}'
        )
    return -1 if direction == 'horizontal' else -2


class RestoredLogits(LogitRows):
    """Rows of the logits of one image at its original size, (1, K, h, w).

    As ``postprocess_result`` of mmseg's ``BaseSegmentor`` restores whole
    logits: padding is cut off, a flip undone, the rest resized.

    Args:
        logits (LogitRows): Of the network's input, (1, K, H, W).
        meta (Mapping): Of the image: ``ori_shape`` and, if they apply,
            ``img_padding_size`` or ``padding_size``, ``flip`` and
            ``flip_direction``.
        align_corners (bool): As in ``F.interpolate``.

    Raises:
        ValueError: If the direction of a flip is none that there is.
    """

    def __init__(
        self, logits: LogitRows, meta: Mapping, align_corners: bool
    ) -> None:
        self.logits = logits
        self.size = size_without_padding(logits.shape, meta)
        left, _, self.top, _ = padding_of(meta)
        self.columns = slice(left, left + self.size[1])
        self.flip_dim = flip_dim(meta)
        self.align_corners = align_corners
        self.shape = (*logits.shape[:2], *meta['ori_shape'])
        self.dtype, self.device = logits.dtype, logits.device
        # Rows of `logits` that were made last, if they are needed again.
        self._made: tuple[slice, Tensor] | None = None

    def tiles(self) -> list[slice]:
        """Split the rows into tiles, so that ``logits`` go from the top."""
        _, channels, height, width = self.shape
        per_row = -(-self.size[0] // height) * self.size[1]
        row_bytes = (
            channels * max(width, per_row) * torch.finfo(self.dtype).bits // 8
        )
        tiles = row_tiles(height, row_bytes, self.device)
        return tiles[::-1] if self.flip_dim == -2 else tiles

    def _num_rehearsed(self) -> int:
        # From one tile that needs new rows of the source to the next.
        num_rows = max(tile.stop - tile.start for tile in self.tiles())
        from_source = num_rows * self.size[0] / self.shape[2]
        return 3 + math.ceil(self._step / from_source)

    @property
    def _step(self) -> int:
        """Rows of the source that are made at once.

        Not one by one: neighbouring rows share most of their work.
        """
        return self.logits.tiles()[0].stop

    def rows(self, rows: slice) -> Tensor:
        """Restore some rows."""
        size = self.shape[2:]
        height = self.size[0]
        source = source_rows(rows, height, size[0], self.align_corners)
        from_top = source
        if self.flip_dim == -2:
            from_top = slice(height - source.stop, height - source.start)
        x = self._cropped(from_top)
        if self.flip_dim is not None:
            x = x.flip(self.flip_dim)
        return resize_rows(x, source, height, rows, size, self.align_corners)

    def image(self, index: int) -> RestoredLogits:
        """Give itself, the only image."""
        if index != 0:
            raise IndexError(f'there is one image, got index {index}')
        return self

    def _cropped(self, rows: slice) -> Tensor:
        """Rows of the logits without padding, (1, K, R, W)."""
        rows = slice(rows.start + self.top, rows.stop + self.top)
        overlap = self.size[0] != self.shape[2]
        if overlap and not isinstance(self.logits, WholeLogits):
            x = self._kept(rows)
        else:
            x = self.logits.rows(rows)
        return x[..., self.columns]

    def _kept(self, rows: slice) -> Tensor:
        """Rows, each made once where they are asked for from the top."""
        made, parts = rows.start, []
        if self._made is not None:
            old, x = self._made
            if old.start <= rows.start < old.stop:
                made = old.stop
                parts = [x[:, :, rows.start - old.start :]]
            self._made = None
        end = self.top + self.size[0]
        step = self._step
        while made < rows.stop:
            stop = min(made + step, end)
            parts.append(self.logits.rows(slice(made, stop)))
            made = stop
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        self._made = slice(rows.start, made), x
        return x[:, :, : rows.stop - rows.start]


def padding_of(meta: Mapping) -> Sequence[int]:
    """Left, right, top and bottom padding of an image."""
    return meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
