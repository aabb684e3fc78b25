"""Models of the zoo that cannot be converted, and why."""

from __future__ import annotations

import copy

import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from torch import nn

from hmsa_mmseg.models.decode_heads.classifiers import find_classifier

_BY_MASKS = (
    'predicts masks with one class each, which its loss matches with those '
    'of the labels: it has no classifier of pixels, whose logits could be '
    'blended in training'
)
SEGMENTORS = {
    'DepthEstimator': 'estimates depth: it has no classes',
    'MultimodalEncoderDecoder': (
        'is no encoder-decoder: image and text encoders feed the head at '
        'sizes of their own'
    ),
    'MultiScaleAttentionSegmentor': 'is a multi-scale model already',
}
HEADS = {
    'Mask2FormerHead': _BY_MASKS,
    'MaskFormerHead': _BY_MASKS,
    'PointHead': (
        'classifies single points, in training other ones at each scale: '
        'there are no maps to blend'
    ),
    'SideAdapterCLIPHead': _BY_MASKS,
    'VPDDepthHead': 'estimates depth: it has no classes',
}


class NotConvertible(ValueError):
    """A model that attention over scales cannot be added to."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_segmentor(model: ConfigDict) -> None:
    """Refuse a model that is no encoder-decoder of mmseg."""
    name = model.get('type')
    if name in SEGMENTORS:
        raise NotConvertible(f'{name} {SEGMENTORS[name]}')
    known = MODELS.get(name) if isinstance(name, str) else name
    if known not in (EncoderDecoder, CascadeEncoderDecoder):
        raise NotConvertible(
            f'model.type={name!r} is a segmentor of its own; expected '
            'EncoderDecoder or CascadeEncoderDecoder'
        )


def check_head(cfg: ConfigDict) -> None:
    """Refuse a decode head without a classifier of pixels."""
    name = cfg.get('type')
    if name in HEADS:
        raise NotConvertible(f'{name} {HEADS[name]}')
    try:
        find_classifier(_build(cfg))
    # Constructors of heads have errors of many types.
    except Exception as error:
        text = ' '.join(str(error).split())
        raise NotConvertible(f'{name}: {text[:300]}') from error


def _build(cfg: ConfigDict) -> nn.Module:
    try:
        # Without memory for weights, and the time to fill it.
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg))
    # Some constructors compute with tensors.
    except (NotImplementedError, RuntimeError):
        return MODELS.build(copy.deepcopy(cfg))
