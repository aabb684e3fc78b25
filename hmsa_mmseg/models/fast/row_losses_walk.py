"""Logits in training, made and used up a few rows at a time.

A loss is linear in what comes to it from above, so its gradient can be had
together with its value: each tile of rows is made of the small maps that the
heads give, a loss takes what it needs and says its gradient, and that goes
back to the small maps at once. Nothing of the size of the image is kept.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale, R: rows of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from ..losses.rmi_pooling import Band, bands
from ..scale_fusion import Size, fuse_scales
from .row_fusion import RowFusion
from .row_losses_resize import resize_rows_by_matrices
from .tiles import TILE_BYTES, kind_of

#: Called with the number of an image, rows, and logits (K, R, W), which it
#: must not change; returns their gradient if one was asked for.
Visit = Callable[[int, Band, Tensor], Optional[Tensor]]

#: Called likewise, for what needs no gradient.
Watch = Callable[[int, Band, Tensor], None]


class RowLogits(NamedTuple):
    """Fused logits that are yet to be made.

    Attributes:
        scales (tuple[float]): Relative image sizes, highest first.
        logits (tuple[Tensor]): Of each scale, (N, K, h, w).
        attns (tuple[Tensor | None]): Of each scale, in [0, 1], (N, 1, h, w);
            that of the first is not read.
        input_size (tuple[int, int]): H and W.
        align_corners (bool): As in ``F.interpolate``.
    """

    scales: tuple[float, ...]
    logits: tuple[Tensor, ...]
    attns: tuple[Tensor | None, ...]
    input_size: Size
    align_corners: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, K, H and W."""
        return (*self.logits[0].shape[:2], *self.input_size)

    @property
    def maps(self) -> list[Tensor]:
        """All maps that are read: logits, then attention."""
        return [*self.logits, *self.attns[1:]]

    def with_maps(self, maps: Sequence[Tensor]) -> RowLogits:
        """Exchange the maps for others of the same sizes."""
        count = len(self.scales)
        return self._replace(
            logits=tuple(maps[:count]), attns=(None, *maps[count:])
        )

    def full(self) -> Tensor:
        """Make the logits as a whole, (N, K, H, W)."""
        outputs = zip(self.scales, self.logits, self.attns)
        return fuse_scales(outputs, self.input_size, self.align_corners)

    def has_rows(self) -> bool:
        """Whether they can be made in tiles: one map size per scale."""
        return all(
            attn is not None and attn.shape[2:] == x.shape[2:]
            for x, attn in zip(self.logits[1:], self.attns[1:])
        )


class _TrainingFusion(RowFusion):
    """Rows of the fused logits, with a backward pass that is as fast."""

    def _resize(
        self, x: Tensor, sizes: Sequence[Size], steps: Sequence[slice]
    ) -> Tensor:
        # On a GPU such products may be in TF32, and torch's resize is fast.
        if x.device.type != 'cpu':
            return super()._resize(x, sizes, steps)
        for k in range(1, len(sizes)):
            x = resize_rows_by_matrices(
                x,
                steps[k - 1],
                sizes[k - 1],
                steps[k],
                sizes[k],
                self.align_corners,
            )
        return x


# What a fusion knows of sizes is the same in every training step.
_training_fusion = lru_cache(maxsize=16)(_TrainingFusion)


def walk_rows(
    source: RowLogits,
    visit: Visit,
    grads: Sequence[Tensor | None] | None = None,
    channels: Sequence[Tensor | None] | None = None,
) -> None:
    """Show the logits to a loss, tile by tile.

    Tiles begin at row 0 or 2 modulo 4: no window of the RMI loss's pooling
    lies in two of them.

    Args:
        source (RowLogits): What to make them of, float32 or float64.
        visit (Callable): See :data:`Visit`.
        grads (Sequence[Tensor | None], optional): For each of
            ``source.maps`` the gradient to add to, None where it is not
            wanted. Defaults to None: ``visit`` returns none.
        channels (Sequence[Tensor], optional): For each image the numbers of
            the classes to make, int64; not together with ``grads``. An image
            without any is not shown.
    """
    batch, num_classes, *size = source.shape
    first = source.logits[0]
    fusion = _training_fusion(
        source.scales,
        tuple(tuple(x.shape[2:]) for x in source.logits),
        source.input_size,
        source.align_corners,
    )
    needed = [grad is not None for grad in grads or ()]
    # Without values there is no cache: count what a GPU would need.
    kind = 'cuda' if first.is_meta else kind_of(first.device)
    elements = TILE_BYTES[kind] // (num_classes * first.element_size())
    for image in range(batch):
        one = source.with_maps([x[image : image + 1] for x in source.maps])
        if channels is not None:
            if len(channels[image]) == 0:
                continue
            chosen = [x.index_select(1, channels[image]) for x in one.logits]
            one = one._replace(logits=tuple(chosen))
        for band in bands(size, elements):
            rows_of = fusion.source_rows(band.rows)
            rows_of = [*rows_of, *rows_of[1:]]
            leaves = [
                x[:, :, rows].detach() for x, rows in zip(one.maps, rows_of)
            ]
            if not any(needed):
                tile = _fuse(fusion, one.with_maps(leaves), band.rows)
                visit(image, band, tile[0])
                continue
            wanted = [x for x, need in zip(leaves, needed) if need]
            with torch.enable_grad():
                for x in wanted:
                    x.requires_grad_()
                tile = _fuse(fusion, one.with_maps(leaves), band.rows)
            grad = visit(image, band, tile.detach()[0])
            found = iter(torch.autograd.grad(tile, wanted, grad[None]))
            for total, rows in zip(grads, rows_of):
                if total is not None:
                    total[image : image + 1, :, rows] += next(found)


def _fuse(fusion: RowFusion, tile: RowLogits, rows: slice) -> Tensor:
    return fusion.rows(tile.logits, tile.attns, rows)
