from .backbones import SingleResizeHRNet
from .decode_heads import HierarchicalMSAttentionHead
from .segmentors import MultiScaleAttentionSegmentor

__all__ = [
    'HierarchicalMSAttentionHead',
    'MultiScaleAttentionSegmentor',
    'SingleResizeHRNet',
]
