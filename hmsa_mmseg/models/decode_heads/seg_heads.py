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

from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptMultiConfig
from torch import Tensor, nn

from ..tiled.ocr import tiled_heads
from .classifiers import find_classifier
from .state_dict_checks import (
    check_attn_channels,
    check_num_classes,
    map_stock_keys,
)

# The seg heads of a cascade are one model: these must agree.
_SHARED_ATTRS = (
    'num_classes',
    'out_channels',
    'align_corners',
    'ignore_index',
)

HeadOutput = Union[Tensor, tuple[Tensor, ...], list[Tensor]]


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


#: A CUDA graph takes it along.
_record.is_captured = True


def end_before_classifier(head: nn.Module) -> None:
    """Let a head's forward end with what its classifier is to read, in place.

    Parameters and state-dict keys stay. Heads that do more with their logits
    than to return them get a forward hook on their classifier instead, which
    ``torch.compile`` cannot capture: K-Net, Segmenter, and those whose forward
    is not mmseg's or this package's.
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

    The last one is of :func:`end_before_classifier`; a RuntimeError says if it
    does not call its classifier.
    """
    *earlier, last = heads
    outputs: list[HeadOutput] = []
    for head in earlier:
        outputs.append(head(feats, *outputs[-1:]))
    args = (feats, *outputs[-1:])
    if 'cls_seg' in last.__dict__:
        output, *found = _classified(last, last(*args))
    else:
        output, *found = _watched(last, args)
    return SegHeadOutputs((*outputs, output), *found)


def _classified(
    head: nn.Module, output: Any
) -> tuple[HeadOutput, Tensor, Tensor]:
    """Take the step that was left out: output, main logits, features."""
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


class WrappedSegHeads(BaseModule):
    """Builds, runs and loads the seg heads of a head for several scales.

    Arguments and errors are those of :class:`BaseMultiScaleHead`. The last
    head ends before its classifier (:func:`end_before_classifier`): by itself
    it gives no logits.
    """

    def __init__(
        self,
        seg_head: ConfigType | list[ConfigType],
        num_classes: int | None,
        reinit_classifier: bool,
        fast: bool,
        init_cfg: OptMultiConfig,
    ) -> None:
        super().__init__(init_cfg)
        cfgs = [seg_head] if isinstance(seg_head, dict) else seg_head
        is_list = isinstance(cfgs, (list, tuple)) and len(cfgs) > 0
        if not is_list or not all(isinstance(cfg, dict) for cfg in cfgs):
            raise TypeError(
                'decode_head.seg_head must be the config (dict) of a decode '
                f'head or a non-empty list of them, got {seg_head!r}'
            )
        if num_classes is not None:
            cfgs = [{**cfg, 'num_classes': num_classes} for cfg in cfgs]
        for cfg in cfgs:
            count = cfg.get('num_classes', 1)
            if not isinstance(count, int) or count < 1:
                raise ValueError(
                    f'decode_head.seg_head.num_classes={count!r}; expected '
                    'an integer of 1 or more'
                )
        heads = [MODELS.build(cfg) for cfg in cfgs]
        classifiers = [find_classifier(head) for head in heads]
        last = heads[-1]
        end_before_classifier(last)
        # One head keeps its keys short, a cascade is numbered as in mmseg.
        single = isinstance(seg_head, dict)
        self.seg_head = last if single else nn.ModuleList(heads)
        self.reinit_classifier = reinit_classifier
        self.fast = fast
        for name in _SHARED_ATTRS:
            found = [getattr(head, name) for head in heads]
            if any(value != found[-1] for value in found):
                raise ValueError(
                    f'the seg heads in decode_head.seg_head must have the '
                    f'same {name}, got {found}'
                )
        self.num_classes = last.num_classes
        self.out_channels = last.out_channels
        self.align_corners = last.align_corners
        self.ignore_index = last.ignore_index
        self.threshold = classifiers[-1].owner.threshold

    @property
    def seg_heads(self) -> list[nn.Module]:
        """The seg heads in the order in which they run."""
        is_cascade = isinstance(self.seg_head, nn.ModuleList)
        return list(self.seg_head) if is_cascade else [self.seg_head]

    def forward_seg_heads(
        self, feats: Sequence[Tensor], with_classifier_feats: bool = True
    ) -> SegHeadOutputs:
        """Run the seg heads at one scale, each exactly once.

        Args:
            feats (Sequence[Tensor]): Features of backbone and neck.
            with_classifier_feats (bool): Whether the last classifier's input
                is wanted. Defaults to True.

        Raises:
            RuntimeError: If the last seg head does not call its classifier.
        """
        run = tiled_heads(self.seg_heads) if self.fast else None
        if run is None:
            return call_seg_heads(self.seg_heads, feats)
        outputs, classifier_feats = run(feats, with_classifier_feats)
        return SegHeadOutputs(outputs, outputs[-1], classifier_feats)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        """Take mmseg's own checkpoints too, and none of other classes."""
        map_stock_keys(state_dict, prefix)
        own = self.state_dict(prefix=prefix)
        names = [f'{prefix}seg_head.']
        if isinstance(self.seg_head, nn.ModuleList):
            names = [f'{names[0]}{i}.' for i in range(len(self.seg_head))]
        classifiers = map(find_classifier, self.seg_heads)
        for name, found in zip(names, classifiers):
            check_num_classes(
                *(state_dict, own, name + found.weight, found.class_dim),
                self.num_classes,
                self.reinit_classifier,
            )
        check_attn_channels(
            state_dict, own, f'{prefix}scale_attn.conv0.weight'
        )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
