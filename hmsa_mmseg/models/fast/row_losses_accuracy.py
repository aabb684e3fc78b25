"""Accuracy of logits that come in tiles of rows.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile.
"""

from __future__ import annotations

from torch import Tensor

from ..losses.rmi_pooling import Band
from .decisions import classes_of
from .row_losses_cross_entropy import EPS


class RowAccuracy:
    """Share of the labelled pixels whose highest logit is their label's.

    Args:
        label (Tensor): Classes or ``ignore_index``, (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.
    """

    def __init__(self, label: Tensor, ignore_index: int) -> None:
        self.label = label
        self.ignore_index = ignore_index
        self.correct = label.new_zeros(())
        self.count = label.new_zeros(())

    def __call__(self, image: int, band: Band, logits: Tensor) -> None:
        """Count the pixels of a tile, logits (K, R, W)."""
        label = self.label[image, band.rows]
        has_label = label != self.ignore_index
        right = (classes_of(logits[None], None)[0] == label) & has_label
        self.correct += right.sum()
        self.count += has_label.sum()

    def percent(self) -> Tensor:
        """The accuracy in percent as mmseg's ``accuracy``, (1,), float32."""
        # mmseg adds EPS to both counts (models/losses/accuracy.py).
        total = self.count.double() + EPS
        share = 100 * (self.correct.double() + EPS) / total
        return share.float()[None]
