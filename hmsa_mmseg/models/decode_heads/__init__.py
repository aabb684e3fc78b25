from .any_size_lraspp_head import AnySizeLRASPPHead
from .attention_to_scale_head import AttentionToScaleHead
from .hierarchical_ms_attention_head import HierarchicalMSAttentionHead
from .multi_scale_average_head import MultiScaleAverageHead

__all__ = [
    'AnySizeLRASPPHead',
    'AttentionToScaleHead',
    'HierarchicalMSAttentionHead',
    'MultiScaleAverageHead',
]
