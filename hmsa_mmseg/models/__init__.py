from .backbones import AnySizeBEiT, AnySizeMAE, SingleResizeHRNet
from .decode_heads import (
    AnySizeLRASPPHead,
    AttentionToScaleHead,
    HierarchicalMSAttentionHead,
    MultiScaleAverageHead,
)
from .losses import ClassWeightedCrossEntropyLoss, RMILoss
from .preparation import prepare_for_inference
from .segmentors import AccumulatingTTAModel, MultiScaleAttentionSegmentor

__all__ = [
    'AccumulatingTTAModel',
    'AnySizeBEiT',
    'AnySizeLRASPPHead',
    'AnySizeMAE',
    'AttentionToScaleHead',
    'ClassWeightedCrossEntropyLoss',
    'HierarchicalMSAttentionHead',
    'MultiScaleAttentionSegmentor',
    'MultiScaleAverageHead',
    'RMILoss',
    'SingleResizeHRNet',
    'prepare_for_inference',
]
