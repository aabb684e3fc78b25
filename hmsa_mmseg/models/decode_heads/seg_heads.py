"""How decode heads of mmseg are called, and what they classify pixels from.

mmseg's heads call their classifier through ``cls_seg``, as the last thing. A
head that is wrapped here ends before that step (:func:`end_before_classifier`)
and the step is taken here, as attention reads what the classifier reads.

Shape shorthand in this module:
    N: batch, K: output channels (classes), C: channels of the classifier's
    input, h, w: size of the seg head's features at one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Union

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

HeadOutput = Union[Tensor, tuple[Tensor, ...], list[Tensor]]


class Classifier(NamedTuple):
    """The classifier of a decode head.

    Attributes:
        owner (nn.Module): The decode head it belongs to, whose settings
            (``norm_cfg``, ``threshold``, ...) hold for it.
        layer (nn.Module): The layer that is called once per forward pass.
        in_channels (int): C.
        weight (str): Name, within the head given, of a parameter with a
            dimension for the classes.
        class_dim (int): Which dimension that is.
        feats_are_output (bool): Whether what the layer gives are the
            features, tokens (N, h * w, C), rather than what it takes, maps
            (N, C, h, w).
    """

    owner: nn.Module
    layer: nn.Module
    in_channels: int
    weight: str
    class_dim: int = 0
    feats_are_output: bool = False


class SegHeadOutputs(NamedTuple):
    """What the seg heads of a cascade give at one scale.

    Attributes:
        outputs (tuple[Tensor | tuple[Tensor]]): What each seg head returns
            by itself; a single tensor (N, K, h, w) for most heads.
        seg_logits (Tensor): Output of the last classifier, (N, K, h, w).
        classifier_feats (Tensor | None): Input of the last classifier,
            after dropout, (N, C, h, w); may be None if not asked for.
    """

    outputs: tuple[HeadOutput, ...]
    seg_logits: Tensor
    classifier_feats: Tensor | None


def find_classifier(head: nn.Module) -> Classifier:
    """Find the classifier of a decode head of mmseg.

    Most heads have a layer ``conv_seg``. ``IterativeDecodeHead`` (K-Net) has
    that of its ``kernel_generate_head``, whose input its kernels classify
    repeatedly. ``SegmenterMaskTransformerHead`` compares what ``patch_proj``
    gives for each pixel with an embedding of each class.

    Args:
        head (nn.Module): A decode head.

    Returns:
        Classifier: What is known about it.

    Raises:
        TypeError: If there is none.
    """
    conv_seg = getattr(head, 'conv_seg', None)
    if hasattr(conv_seg, 'in_channels'):
        return Classifier(
            head, conv_seg, conv_seg.in_channels, 'conv_seg.weight'
        )
    inner = getattr(head, 'kernel_generate_head', None)
    if hasattr(getattr(inner, 'conv_seg', None), 'in_channels'):
        return Classifier(
            inner,
            inner.conv_seg,
            inner.conv_seg.in_channels,
            'kernel_generate_head.conv_seg.weight',
        )
    projection = getattr(head, 'patch_proj', None)
    if isinstance(projection, nn.Linear) and hasattr(head, 'cls_emb'):
        return Classifier(
            head,
            projection,
            projection.out_features,
            'cls_emb',
            class_dim=1,
            feats_are_output=True,
        )
    raise TypeError(
        f'decode_head.seg_head: {type(head).__name__} has no '
        'classifier layer `conv_seg` whose input features could be '
        f'read, got {conv_seg!r}; expected a decode head that ends '
        'in one, such as FCNHead or DepthwiseSeparableASPPHead'
    )


class _Features(NamedTuple):
    """What a head gives in the place of its logits."""

    feats: Tensor


# Pairs of input and output of the classifier that is being called; one list
# for each thread.
_recorded: ContextVar[list[tuple[Tensor, Tensor]] | None] = ContextVar(
    'recorded', default=None
)


def _record(layer: nn.Module, args: tuple, output: Tensor) -> None:
    calls = _recorded.get()
    if calls is not None:
        calls.append((args[0], output))


def end_before_classifier(head: nn.Module) -> None:
    """Let a head's forward end with what its classifier is to read.

    Parameters and state-dict keys stay. Heads that do more with their
    logits than to return them get a forward hook on their classifier
    instead, which ``torch.compile`` cannot capture: K-Net, Segmenter, and
    those whose forward is not mmseg's or this package's.

    Args:
        head (nn.Module): A decode head of mmseg, changed in place.
    """
    classifier = find_classifier(head)
    home = type(head).forward.__module__.split('.')[0]
    is_plain = classifier.owner is head and not classifier.feats_are_output
    has_cls_seg = (
        getattr(type(head), 'cls_seg', None) is BaseDecodeHead.cls_seg
    )
    if is_plain and has_cls_seg and home in ('mmseg', 'hmsa_mmseg'):
        head.cls_seg = _Features
    else:
        classifier.layer.register_forward_hook(_record)


def call_seg_heads(
    heads: Sequence[nn.Module], feats: Sequence[Tensor]
) -> SegHeadOutputs:
    """Run the seg heads of a cascade at one scale, each exactly once.

    Args:
        heads (Sequence[nn.Module]): Decode heads of mmseg, the last one of
            :func:`end_before_classifier`.
        feats (Sequence[Tensor]): Features of backbone and neck.

    Returns:
        SegHeadOutputs: The outputs and the last classifier's input.

    Raises:
        RuntimeError: If the last seg head does not call its classifier.
    """
    *earlier, last = heads
    outputs: list[HeadOutput] = []
    for head in earlier:
        outputs.append(head(feats, *outputs[-1:]))
    args = (feats, *outputs[-1:])
    if 'cls_seg' in vars(last):
        output, *found = _classified(last, last(*args))
    else:
        output, *found = _watched(last, args)
    return SegHeadOutputs((*outputs, output), *found)


def _classified(
    head: nn.Module, output: Any
) -> tuple[HeadOutput, Tensor, Tensor]:
    """Take the step that a head has left out.

    Returns:
        tuple: The head's output, its main logits, and what they are of.
    """
    is_single = isinstance(output, _Features)
    leaves = [output] if is_single or isinstance(output, Tensor) else output
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, _Features):
            feats = leaf.feats
            if head.dropout is not None:
                feats = head.dropout(feats)
            logits = head.conv_seg(feats)
            if not is_single:
                output = (*leaves[:i], logits, *leaves[i + 1 :])
            return logits if is_single else output, logits, feats
    raise _not_called(head)


def _watched(
    head: nn.Module, args: tuple
) -> tuple[HeadOutput, Tensor, Tensor]:
    """Run a head whose classifier has a hook; returns as the above."""
    calls: list[tuple[Tensor, Tensor]] = []
    token = _recorded.set(calls)
    try:
        output = head(*args)
    finally:
        _recorded.reset(token)
    if not calls:
        raise _not_called(head)
    feats, classified = calls[-1]
    logits = output
    if isinstance(output, list):
        # K-Net's: each refines the one before.
        logits = output[-1]
    elif isinstance(output, tuple):
        same = [leaf for leaf in output if leaf is classified]
        logits = (same or output)[0]
    if find_classifier(head).feats_are_output:
        # Tokens, in the order of the pixels of the logits.
        feats = classified.transpose(1, 2).unflatten(2, logits.shape[2:])
    return output, logits, feats


def _not_called(head: nn.Module) -> RuntimeError:
    return RuntimeError(
        f'{type(head).__name__}.forward did not end in its classifier '
        f'`{find_classifier(head).weight}`, so there are no features for '
        'attention; a seg head ends before it, and neither `cls_seg` nor '
        'what the head returns (in a hook) may be changed after the model '
        'was built'
    )
