"""Softmax cross-entropy of logits that come in tiles of rows.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor

from ..losses.class_weighted_cross_entropy import ClassWeightedCrossEntropyLoss
from ..losses.rmi_pooling import Band
from .row_losses_walk import RowLogits, Watch, walk_rows

# mmseg adds it to divisors (weight_reduce_loss in models/losses/utils.py).
EPS = torch.finfo(torch.float32).eps


class SoftmaxTerms(NamedTuple):
    """What a softmax over the classes of a tile gives.

    Attributes:
        exps (Tensor): exp(x) over the largest, (K, R, W).
        sums (Tensor): Their sum over classes, (R, W).
        of_target (Tensor): That of the pixel's own class, (R, W).
        entropy (Tensor): -log of its probability, (R, W).
        index (Tensor): The pixel's class, 0 where ignored, (1, R, W).
    """

    exps: Tensor
    sums: Tensor
    of_target: Tensor
    entropy: Tensor
    index: Tensor


def softmax_terms(logits: Tensor, index: Tensor) -> SoftmaxTerms:
    """Compute the terms of a tile.

    Args:
        logits (Tensor): Shape (K, R, W).
        index (Tensor): A class for each pixel, (R, W), int64.
    """
    index = index[None]
    peak = logits.amax(dim=0)
    of_target = logits.gather(0, index)[0] - peak
    exps = (logits - peak).exp_()
    sums = exps.sum(dim=0)
    entropy = sums.log() - of_target
    return SoftmaxTerms(exps, sums, of_target.exp_(), entropy, index)


class RowCrossEntropy:
    """One cross-entropy loss of one map of logits.

    Args:
        module (CrossEntropyLoss): The loss, whose weight is left to the
            caller; with a softmax and the reduction 'mean'.
        label (Tensor): Classes or ``ignore_index``, (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.
        pixel_weight (Tensor, optional): Factor of each pixel, (N, H, W),
            from a sampler.
    """

    def __init__(
        self,
        module: CrossEntropyLoss,
        label: Tensor,
        ignore_index: int,
        pixel_weight: Tensor | None = None,
    ) -> None:
        self.module = module
        self.label = label
        self.ignore_index = ignore_index
        self.pixel_weight = pixel_weight

    def __call__(
        self,
        source: RowLogits,
        grads: Sequence[Tensor | None] | None,
        watch: Watch | None,
    ) -> Tensor:
        """Compute the loss and, into ``grads``, its gradient.

        Args:
            source (RowLogits): The logits, float32 or float64.
            grads (Sequence[Tensor | None], optional): For each of
                ``source.maps`` zeros to add to, or None.
            watch (Callable, optional): Shown all logits once.

        Returns:
            Tensor: The loss, a scalar, float64.
        """
        like = source.logits[0]
        total = like.new_zeros((), dtype=torch.float64)
        class_weight = class_weight_of(self.module, like)
        divisor = self._divisor(class_weight)

        def visit(image: int, band: Band, logits: Tensor) -> Tensor | None:
            if watch is not None:
                watch(image, band, logits)
            label = self.label[image, band.rows]
            has_label = label != self.ignore_index
            terms = softmax_terms(logits, label.where(has_label, 0))
            factor = has_label.to(logits.dtype)
            if class_weight is not None:
                factor = factor * class_weight[terms.index[0]]
            if self.pixel_weight is not None:
                factor = factor * self.pixel_weight[image, band.rows]
            # Of pixels without a label nothing counts, infinite or not.
            entropy = terms.entropy.where(has_label, 0)
            total.add_((entropy * factor).sum(dtype=torch.float64))
            if grads is None:
                return None
            factor = factor / divisor.to(factor.dtype)
            grad = terms.exps.mul_(factor / terms.sums)
            return grad.scatter_add_(0, terms.index, -factor[None])

        walk_rows(source, visit, grads)
        return total / divisor

    def _divisor(self, class_weight: Tensor | None) -> Tensor:
        """What mmseg and our weighted loss divide the sum by."""
        label, ignore_index = self.label, self.ignore_index
        if isinstance(self.module, ClassWeightedCrossEntropyLoss):
            has_label = label != ignore_index
            weights = class_weight[label.where(has_label, 0)]
            count = (weights * has_label).sum()
        elif class_weight is not None:
            # An IndexError with ignored pixels of label 255, as in mmseg.
            weights = class_weight[label]
            if self.module.avg_non_ignore:
                weights = weights * (label != ignore_index)
            count = weights.sum()
        elif self.module.avg_non_ignore:
            count = (label != ignore_index).sum()
        else:
            count = label.new_full((), label.numel())
        return count.double() + EPS


def class_weight_of(module: CrossEntropyLoss, like: Tensor) -> Tensor | None:
    """Weights of the classes, shape (K,), or None."""
    if module.class_weight is None:
        return None
    return like.new_tensor(module.class_weight)
