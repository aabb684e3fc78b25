"""RMI and binary cross-entropy of logits that come in tiles of rows.

The terms of :class:`..losses.rmi_loss.RMILoss`. The first walk over the
logits pools the probabilities of the classes that an image has; the RMI term
and its gradient are had from the pooled maps; the second walk adds up the
cross-entropy and gives the gradient of both.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile, h, w: size of
    the pooled maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..losses.rmi_band_terms import entropy_and_pools, slope_of_terms
from ..losses.rmi_functional import LAMBDA, present_classes, rmi_of_pairs
from ..losses.rmi_loss import RMILoss, one_or_nan
from ..losses.rmi_pixel_terms import pooled_classes
from ..losses.rmi_pooling import Band, pooled_size
from .row_losses_walk import RowLogits, Watch, walk_rows


class RowRMI:
    """One :class:`RMILoss` of one map of logits.

    Args:
        module (RMILoss): The loss, whose weight is left to the caller.
        label (Tensor): Shape (N, H, W), checked by
            :meth:`RMILoss.labels_for`.
    """

    def __init__(self, module: RMILoss, label: Tensor) -> None:
        self.with_rmi = module.with_rmi
        self.label = label

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
            Tensor: The loss, a scalar, float64; NaN, with its gradient, if a
            logit is not finite.
        """
        batch, num_classes, *_ = source.shape
        like = source.logits[0]
        present = rmi = slope = None
        if self.with_rmi:
            present = present_classes(self.label, num_classes)
            rmi, slope = self._rmi(source, present, grads is not None)
        classes = pooled_classes(present, batch, num_classes)
        bce_share = LAMBDA if self.with_rmi else 1.0
        factor = bce_share / ((self.label >= 0).sum().double() + 1)
        total = like.new_zeros((), dtype=torch.float64)
        finite = like.new_ones(())

        def visit(image: int, band: Band, logits: Tensor) -> Tensor | None:
            target = self.label[image, band.rows]
            finite.mul_(one_or_nan(logits))
            if watch is not None:
                watch(image, band, logits)
            if grads is None:
                total.add_(
                    entropy_and_pools(
                        logits, target, band, None, classes[image]
                    )
                )
                return None
            grad = torch.empty_like(logits)
            entropy = slope_of_terms(
                logits,
                target,
                band,
                factor.to(logits.dtype),
                None if slope is None else slope[image],
                classes[image],
                out=grad,
                with_entropy=True,
            )
            total.add_(entropy)
            return grad

        walk_rows(source, visit, grads)
        for grad in grads or ():
            if grad is not None:
                grad *= finite
        loss = factor * total
        if rmi is not None:
            loss = loss + (1 - LAMBDA) * rmi
        return loss * finite

    def _rmi(
        self, source: RowLogits, present: list[list[bool]], need_grad: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the RMI term, and its gradient at the pooled maps.

        Returns:
            tuple: The term, and half of its gradient at the pooled
            probabilities, (N, K, h, w), or None.
        """
        batch, num_classes, *size = source.shape
        like = source.logits[0]
        found = [[k for k, flag in enumerate(one) if flag] for one in present]
        counts = [len(classes) for classes in found]
        probs = like.new_zeros(sum(counts), *pooled_size(size))
        labels = torch.zeros_like(probs)
        pools = list(zip(probs.split(counts), labels.split(counts)))

        def visit(image: int, band: Band, logits: Tensor) -> None:
            entropy_and_pools(
                logits,
                self.label[image, band.rows],
                band,
                pools[image],
                found[image],
                with_entropy=False,
            )

        has_all = min(counts) == num_classes
        channels = [
            torch.tensor(classes, dtype=torch.long) for classes in found
        ]
        walk_rows(source, visit, channels=None if has_all else channels)
        with torch.enable_grad():
            probs.requires_grad_(need_grad)
            rmi = rmi_of_pairs(probs, labels, batch, num_classes)
        if not rmi.requires_grad:
            return rmi, None
        (slope,) = torch.autograd.grad(rmi, probs)
        slope *= 1 - LAMBDA
        if not has_all:
            full = slope.new_zeros(batch, num_classes, *slope.shape[1:])
            for to, classes, part in zip(full, channels, slope.split(counts)):
                to[classes] = part
            slope = full
        return rmi.detach(), slope.view(batch, num_classes, *slope.shape[-2:])
