"""Logits of one image as the image was before padding, flip and resize.

Shape shorthand in this module:
    K: output channels (classes), H, W: size of the network's input, h, w:
    original size of an image, R: rows asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from ..scale_fusion import Size
from .logit_rows import LogitRows, Take
from .row_resize import resize_chain


def size_without_padding(shape: Sequence[int], meta: Mapping) -> Size:
    """Size (h, w) of an image (..., H, W) without what has been padded."""
    left, right, top, bottom = _padding_of(meta)
    return shape[-2] - top - bottom, shape[-1] - left - right


def _padding_of(meta: Mapping) -> Sequence[int]:
    """Left, right, top and bottom."""
    return meta.get('img_padding_size', meta.get('padding_size', [0] * 4))


class RestoredLogits(LogitRows):
    """Rows of the logits of one image at its original size, (1, K, h, w).

    As ``postprocess_result`` of mmseg's ``BaseSegmentor`` restores whole
    logits: padding is cut off, a flip undone, the rest resized.

    Args:
        logits (LogitRows): Of the network's input, (1, K, H, W).
        meta (Mapping): Of the image, if they apply: ``img_padding_size`` or
            ``padding_size``, ``flip`` and ``flip_direction``.
        size (Sequence[int]): h and w.
        align_corners (bool): As in ``F.interpolate``.

    Raises:
        ValueError: If the direction of a flip is another one.
    """

    def __init__(
        self,
        logits: LogitRows,
        meta: Mapping,
        size: Sequence[int],
        align_corners: bool,
    ) -> None:
        super().__init__(logits.maps, size)
        self.logits, self.align_corners = logits, align_corners
        self.source_size = size_without_padding(logits.shape, meta)
        self.left, _, self.top, _ = _padding_of(meta)
        self.flip = meta.get('flip_direction') if meta.get('flip') else None
        if meta.get('flip') and self.flip not in ('horizontal', 'vertical'):
            raise ValueError(
                'flip_direction of an image must be horizontal or vertical, '
                f'got {self.flip!r}'
            )

    def make(self, rows: slice, take: Take) -> Tensor:
        """Restore some rows."""
        sizes = self.source_size, self.shape[2:]
        source = partial(self._before_resize, take)
        return resize_chain(source, sizes, rows, self.align_corners)

    def _before_resize(self, take: Take, rows: slice) -> Tensor:
        """Rows without padding and flip."""
        (height, width), start, stop = self.source_size, rows.start, rows.stop
        if self.flip == 'vertical':
            start, stop = height - stop, height - start
        x = self.logits.make(slice(start + self.top, stop + self.top), take)
        x = x[..., self.left : self.left + width]
        if self.flip is None:
            return x
        return x.flip(-1 if self.flip == 'horizontal' else -2)
