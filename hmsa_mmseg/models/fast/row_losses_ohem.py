"""Hard pixels of logits that come in tiles of rows.

What mmseg's ``OHEMPixelSampler`` chooses (structures/sampler), without the
softmax of all logits and without sorting all pixels.

Shape shorthand in this module:
    N: batch, H, W: input size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures.sampler import OHEMPixelSampler
from torch import Tensor

from ..losses.rmi_pooling import Band
from .row_losses_cross_entropy import class_weight_of, softmax_terms
from .row_losses_walk import RowLogits, walk_rows


@torch.no_grad()
def hard_pixels(
    sampler: OHEMPixelSampler,
    modules: Sequence[CrossEntropyLoss],
    source: RowLogits,
    label: Tensor,
    ignore_index: int,
) -> Tensor:
    """Choose the pixels that count.

    Args:
        sampler (OHEMPixelSampler): With a threshold of the probability, or
            for a number of pixels with the highest loss.
        modules (Sequence[CrossEntropyLoss]): The losses of the head.
        source (RowLogits): Its logits, float32 or float64.
        label (Tensor): Shape (N, H, W), int64.
        ignore_index (int): Label of pixels that are not to be chosen.

    Returns:
        Tensor: 1 for chosen pixels, 0 for others, (N, H, W), of the type of
        the logits.
    """
    like = source.logits[0]
    # The probability of the pixel's class or, without a threshold, its loss.
    value = like.new_empty(label.shape)
    has_label = label != ignore_index
    weights = [class_weight_of(module, like) for module in modules]

    def visit(image: int, band: Band, logits: Tensor) -> None:
        valid = has_label[image, band.rows]
        index = label[image, band.rows].where(valid, 0)
        terms = softmax_terms(logits, index)
        if sampler.thresh is not None:
            value[image, band.rows] = terms.of_target / terms.sums
            return
        total = 0
        for module, weight in zip(modules, weights):
            loss = terms.entropy
            if weight is not None:
                loss = loss * weight[index]
            total = total + module.loss_weight * loss
        value[image, band.rows] = total

    walk_rows(source, visit)
    kept = sampler.min_kept * len(label)
    if sampler.thresh is not None:
        chosen = _improbable(value, has_label, kept, sampler.thresh)
    else:
        chosen = _highest(value, has_label, kept)
    return chosen.to(like.dtype)


def _improbable(
    probs: Tensor, has_label: Tensor, kept: int, thresh: float
) -> Tensor:
    """Pixels below a threshold that at least so many are below, if any are.

    The threshold is ``thresh`` or, if it is higher, the probability that is
    number ``kept`` from the lowest, from 0, or else the last.
    """
    flat = probs.where(has_label, torch.inf).flatten()
    lowest = flat.topk(min(kept + 1, len(flat)), largest=False).values
    count = has_label.sum()
    # No more than `kept`, which lies within what was taken.
    place = (count - 1).clamp(0, len(lowest) - 1)
    least = lowest.gather(0, place[None])[0].where(count > 0, 0)
    return (probs < least.clamp_min(thresh)) & has_label


def _highest(loss: Tensor, has_label: Tensor, kept: int) -> Tensor:
    """As many of the highest losses; the first ones of those that tie."""
    flat = loss.where(has_label, -torch.inf).flatten()
    if kept >= len(flat):
        return has_label
    least = flat.topk(kept).values[-1]
    # Not "greater than": NaN is above everything, as when sorted.
    above = ~(flat <= least)
    ties = flat == least
    chosen = above | (ties & (ties.cumsum(0) <= kept - above.sum()))
    return chosen.view_as(has_label) & has_label
