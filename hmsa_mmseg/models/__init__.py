from .backbones import SingleResizeHRNet
from .decode_heads import (
    AttentionToScaleHead,
    HierarchicalMSAttentionHead,
    MultiScaleAverageHead,
)
from .losses import ClassWeightedCrossEntropyLoss, RMILoss
from .segmentors import MultiScaleAttentionSegmentor

__all__ = [
    'AttentionToScaleHead',
    'ClassWeightedCrossEntropyLoss',
    'HierarchicalMSAttentionHead',
    'MultiScaleAttentionSegmentor',
    'MultiScaleAverageHead',
    'RMILoss',
    'SingleResizeHRNet',
]
