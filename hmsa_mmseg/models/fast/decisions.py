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
from .tiles import kind_of
from .tracing import is_tracing


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


def class_dtype(num_classes: int) -> torch.dtype:
    """The smallest type of classes that all of mmseg's tools take.

    Not uint8: ``IoUMetric`` casts labels to it, and an ``ignore_index`` of
    -1 or 1000 would become a class; ``CityscapesMetric`` writes label ids
    into it, one of which is -1.
    """
    return torch.int16 if num_classes <= 1 << 15 else torch.int32


def decide(
    logits: LogitRows,
    dtype: torch.dtype,
    threshold: float | None,
    with_confidence: bool = False,
    are_probabilities: bool = False,
) -> Decision:
    """Decide the classes, a few rows at a time; without gradients.

    Args:
        logits (LogitRows): Shape (N, K, H, W), made or not.
        dtype (torch.dtype): Of the classes.
        threshold (float, optional): Of the probability, read if K is 1.
        with_confidence (bool): Whether it is asked for. Defaults to False.
        are_probabilities (bool): Whether the values are those instead.
            Defaults to False.

    Returns:
        Decision: Classes, and confidence or None.
    """
    num_images, _, *size = logits.shape
    kwargs = dict(device=logits.device)
    classes = torch.empty(num_images, *size, dtype=dtype, **kwargs)
    confidence = None
    if with_confidence:
        confidence = torch.empty(
            num_images, *size, dtype=torch.float32, **kwargs
        )
    with torch.no_grad():
        for rows in logits.passed_tiles():
            tile = logits.rows(rows)
            found = classes_of(tile, threshold, are_probabilities)
            classes[:, rows] = found
            if with_confidence:
                confidence[:, rows] = confidence_of_tile(
                    tile,
                    found if tile.shape[1] == 1 else None,
                    are_probabilities,
                )
    return Decision(classes, confidence)


def classes_of(
    seg_logits: Tensor,
    threshold: float | None,
    are_probabilities: bool = False,
) -> Tensor:
    """Classes of logits, as mmseg's ``postprocess_result`` decides them.

    Args:
        seg_logits (Tensor): Shape (N, K, H, W).
        threshold (float, optional): Of the probability, read if K is 1;
            without one the only channel is the only class.
        are_probabilities (bool): Whether they are those instead. Defaults
            to False.

    Returns:
        Tensor: Shape (N, H, W), of an integer type or, if K is 1, bool.
    """
    if seg_logits.shape[1] == 1 and threshold is not None:
        if not are_probabilities:
            seg_logits = seg_logits.sigmoid()
        return seg_logits[:, 0] > threshold
    num_classes = seg_logits.shape[1]
    device = seg_logits.device
    is_on_cpu = device.type in ('cpu', 'meta') and kind_of(device) == 'cpu'
    if not is_on_cpu or num_classes > 255 or is_tracing():
        return seg_logits.argmax(dim=1)
    # torch.argmax over channels does not vectorise on the CPU: this takes a
    # tenth of its time. The first channel that holds the largest value has
    # the largest number; NaN is below nothing, and gives class 0.
    below = seg_logits < seg_logits.amax(dim=1, keepdim=True)
    numbers = torch.arange(
        num_classes, 0, -1, dtype=torch.uint8, device=device
    )
    is_largest = below.logical_not_().view(torch.uint8)
    largest = is_largest.mul_(numbers.view(-1, 1, 1)).amax(dim=1)
    return num_classes - largest


def confidence_of_tile(
    tile: Tensor,
    classes: Tensor | None = None,
    are_probabilities: bool = False,
) -> Tensor:
    """Probability of the class that each pixel is given.

    Args:
        tile (Tensor): Logits, shape (N, K, R, W).
        classes (Tensor, optional): Shape (N, R, W), of any type. Defaults to
            None: of K > 1 the most probable.
        are_probabilities (bool): Whether the values are those instead.
            Defaults to False.

    Returns:
        Tensor: Shape (N, R, W), float32.
    """
    tile = tile.float()
    if tile.shape[1] == 1:
        second = tile[:, 0] if are_probabilities else tile[:, 0].sigmoid()
        return torch.where(classes == 1, second, 1 - second)
    largest = tile.amax(dim=1, keepdim=True)
    given = largest
    if classes is not None:
        given = tile.gather(1, classes.long()[:, None])
    if are_probabilities:
        return given[:, 0]
    # The softmax of one class, without those of the others.
    total = (tile - largest).exp_().sum(dim=1)
    if classes is None:
        return total.reciprocal_()
    return (given - largest)[:, 0].exp_().div_(total)
