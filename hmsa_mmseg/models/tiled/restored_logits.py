"""Logits of one image as the image was before padding, flip and resize.

Shape shorthand in this module:
    K: output channels (classes), H, W: size of the network's input, h, w:
    original size of an image, R: rows asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..scale_fusion import Size
from .logit_rows import LogitRows
from .row_resize import resize_rows, source_rows


def padding_of(meta: Mapping) -> Sequence[int]:
    """Left, right, top and bottom padding of an image."""
    return meta.get('img_padding_size', meta.get('padding_size', [0] * 4))


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
        ValueError: If the direction of a flip is another one.
    """

    def __init__(
        self, logits: LogitRows, meta: Mapping, align_corners: bool
    ) -> None:
        super().__init__(logits.maps, meta['ori_shape'])
        self.logits, self.meta = logits, meta
        self.align_corners = align_corners
        self.size = size_without_padding(logits.shape, meta)
        self.flip_dim = flip_dim(meta)
        left, _, self.top, _ = padding_of(meta)
        self.columns = slice(left, left + self.size[1])

    def sources(self, rows: slice) -> list[slice]:
        """Rows of the maps that the logits are made of."""
        return self.logits.sources(self._rows_of_logits(rows)[1])

    def compute(self, parts: Sequence[Tensor], rows: slice) -> Tensor:
        """Restore some rows."""
        source, rows_of_logits = self._rows_of_logits(rows)
        x = self.logits.compute(parts, rows_of_logits)[..., self.columns]
        if self.flip_dim is not None:
            x = x.flip(self.flip_dim)
        return resize_rows(
            x, source, self.size[0], rows, self.shape[2:], self.align_corners
        )

    def with_maps(self, maps: Sequence[Tensor]) -> RestoredLogits:
        """Take other maps."""
        return RestoredLogits(
            self.logits.with_maps(maps), self.meta, self.align_corners
        )

    def _rows_of_logits(self, rows: slice) -> tuple[slice, slice]:
        """Rows of the image before its resize, and of the network's input."""
        height = self.size[0]
        source = source_rows(rows, height, self.shape[2], self.align_corners)
        start, stop = source.start, source.stop
        if self.flip_dim == -2:
            start, stop = height - stop, height - start
        return source, slice(start + self.top, stop + self.top)
