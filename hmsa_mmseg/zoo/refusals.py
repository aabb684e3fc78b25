"""Models of the zoo that cannot be converted, and why."""

from __future__ import annotations

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
    """A model that attention over scales cannot be added to.

    Args:
        reason (str): Why.

    Attributes:
        reason (str): Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def refuse_segmentor(name: object) -> None:
    """Raise :class:`NotConvertible` for a segmentor in the list above."""
    if name in SEGMENTORS:
        raise NotConvertible(f'{name} {SEGMENTORS[name]}')


def refuse_head(name: object) -> None:
    """Raise :class:`NotConvertible` for a head in the list above."""
    if name in HEADS:
        raise NotConvertible(f'{name} {HEADS[name]}')
