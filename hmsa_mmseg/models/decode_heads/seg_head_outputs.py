"""What seg heads of mmseg give at one scale, and how they are called.

Shape shorthand in this module:
    N: batch, K: output channels (classes), h, w: size of the seg head's
    features at one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

from torch import Tensor, nn

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
        RuntimeError: If the last seg head does not call ``conv_seg``.
    """
    *earlier, last = heads
    stages: list[HeadOutput] = []
    for i, head in enumerate(earlier):
        stages.append(head(feats, stages[-1]) if i else head(feats))

    calls: list[tuple[Tensor, Tensor]] = []
    handle = last.conv_seg.register_forward_hook(
        lambda _, args, output: calls.append((args[0], output))
    )
    try:
        stages.append(last(feats, stages[-1]) if stages else last(feats))
    finally:
        handle.remove()
    if not calls:
        raise RuntimeError(
            f'{type(last).__name__}.forward did not call its classifier '
            'layer `conv_seg`, so there are no features for attention'
        )
    classifier_feats, classified = calls[-1]
    return SegHeadOutputs(
        tuple(stages),
        _main_logits(stages[-1], classified),
        classifier_feats,
    )


def _main_logits(output: HeadOutput, classified: Tensor) -> Tensor:
    """Pick the logits of the classifier from what a head returned.

    Heads with several outputs differ in their order: DAHead puts its
    classifier's first, PIDHead second.
    """
    if isinstance(output, Tensor):
        return output
    for candidate in output:
        if candidate is classified:
            return candidate
    return output[0]
