"""From logits to the class of each pixel and its probability, in row tiles.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: size of the logits, R: rows
    of a tile.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .logit_rows import LogitRows


class Decision(NamedTuple):
    """What is decided in each pixel.

    Attributes:
        classes (Tensor): Shape (N, H, W).
        confidence (Tensor | None): The probability of that class, (N, H, W),
            float32, in [0, 1]. Below 0.5 for the second of two classes where
            ``threshold`` is below that, as mmseg's 0.3 is.
    """

    classes: Tensor
    confidence: Tensor | None


@torch.no_grad()
def decide(
    logits: LogitRows,
    dtype: torch.dtype,
    threshold: float | None,
    with_confidence: bool = False,
    are_probabilities: bool = False,
    classes: Tensor | None = None,
) -> Decision:
    """Decide the classes, a few rows at a time; without gradients.

    Args:
        logits (LogitRows): Shape (N, K, H, W).
        dtype (torch.dtype): Of the classes.
        threshold (float, optional): Of the probability, read if K is 1.
        with_confidence (bool): Whether it is asked for.
        are_probabilities (bool): Whether the values are those instead.
        classes (Tensor, optional): What others have decided, (N, H, W).
    """
    decided, confidence = [], []
    for rows in logits.tiles():
        tile = logits.rows(rows)
        if classes is None:
            found = classes_of(tile, threshold, are_probabilities)
        else:
            found = classes[:, rows]
        decided.append(found.to(dtype))
        if with_confidence:
            confidence.append(_confidence_of(tile, found, are_probabilities))
    return Decision(
        torch.cat(decided, dim=1),
        torch.cat(confidence, dim=1) if with_confidence else None,
    )


def classes_of(
    seg_logits: Tensor,
    threshold: float | None,
    are_probabilities: bool = False,
) -> Tensor:
    """Classes of logits, as mmseg's ``postprocess_result`` decides them.

    ``threshold`` of the probability is read if K is 1; without one the only
    channel is the only class. Shape (N, H, W), int64 or, if K is 1, bool.
    """
    if seg_logits.shape[1] == 1 and threshold is not None:
        if not are_probabilities:
            seg_logits = seg_logits.sigmoid()
        return seg_logits[:, 0] > threshold
    # Several times faster on a CPU than argmax, which gives the same.
    return seg_logits.max(dim=1).indices


def _confidence_of(
    tile: Tensor, classes: Tensor, are_probabilities: bool
) -> Tensor:
    """Probability of the class that each pixel is given, (N, R, W)."""
    probs = tile.float()
    if tile.shape[1] == 1:
        second = probs[:, 0] if are_probabilities else probs[:, 0].sigmoid()
        return torch.where(classes == 1, second, 1 - second)
    if not are_probabilities:
        probs = probs.softmax(dim=1)
    return probs.gather(1, classes.long()[:, None])[:, 0]
