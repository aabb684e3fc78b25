"""What seg heads of mmseg give at one scale, and how they are called.

Shape shorthand in this module:
    N: batch, K: output channels (classes), h, w: size of the seg head's
    features at one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

from mmseg.models.decode_heads.knet_head import IterativeDecodeHead
from torch import Tensor, nn

from ..fast.row_losses import LazyOutput
from ..fast.row_losses_walk import RowLogits
from .classifiers import find_classifier, recorded

HeadOutput = Union[Tensor, tuple[Tensor, ...]]


class SegHeadOutputs(NamedTuple):
    """What the seg heads give at one scale.

    Attributes:
        stages (tuple[Tensor | tuple[Tensor]]): What each seg head of the
            cascade returned; a single tensor (N, K, h, w) for most heads.
        seg_logits (Tensor): Output of the last classifier, (N, K, h, w).
        classifier_feats (Tensor | None): Input of the last classifier,
            after dropout, (N, C, h, w); may be None if not asked for.
    """

    stages: tuple[HeadOutput, ...]
    seg_logits: Tensor
    classifier_feats: Tensor | None


def call_seg_heads(
    heads: Sequence[nn.Module], feats: Sequence[Tensor]
) -> SegHeadOutputs:
    """Run the seg heads of a cascade at one scale, each exactly once.

    Args:
        heads (Sequence[nn.Module]): Decode heads of mmseg.
        feats (Sequence[Tensor]): Features of backbone and neck.

    Returns:
        SegHeadOutputs: The outputs and the last classifier's input.

    Raises:
        RuntimeError: If the last seg head does not call its classifier.
    """
    *earlier, last = heads
    stages: list[HeadOutput] = []
    for i, head in enumerate(earlier):
        stages.append(head(feats, stages[-1]) if i else head(feats))

    classifier = find_classifier(last)
    with recorded(classifier.layer) as calls:
        stages.append(last(feats, stages[-1]) if stages else last(feats))
    if not calls:
        raise RuntimeError(
            f'{type(last).__name__}.forward did not call its classifier '
            f'`{classifier.weight}`, so there are no features for attention'
        )
    classifier_feats, classified = calls[-1]
    seg_logits = _main_logits(stages[-1], classified)
    if classifier.feats_are_output:
        # Tokens, in the order of the pixels of the logits.
        classifier_feats = classified.transpose(1, 2).unflatten(
            2, seg_logits.shape[2:]
        )
    return SegHeadOutputs(tuple(stages), seg_logits, classifier_feats)


def as_loss_takes_it(head: nn.Module, output: LazyOutput) -> LazyOutput:
    """Make an output what the loss of a head takes in any mode.

    In evaluation, as a frozen seg head is, K-Net's gives the last of its
    stages alone, and its loss would take a batch for the list of them.

    Args:
        head (nn.Module): A decode head of mmseg.
        output (RowLogits | Tensor | tuple): Of its ``forward``, combined.

    Returns:
        RowLogits | Tensor | tuple: For its ``loss_by_feat``.
    """
    is_map = isinstance(output, (Tensor, RowLogits))
    if isinstance(head, IterativeDecodeHead) and is_map:
        return (output,)
    return output


def _main_logits(output: HeadOutput, classified: Tensor) -> Tensor:
    """Pick the logits of the classifier from what a head returned.

    Heads with several outputs differ in their order: DAHead puts its
    classifier's first, PIDHead second. A list (K-Net) holds stages that each
    refine the one before.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list):
        return output[-1]
    for candidate in output:
        if candidate is classified:
            return candidate
    return output[0]
