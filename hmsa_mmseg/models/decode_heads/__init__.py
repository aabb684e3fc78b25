from .hierarchical_ms_attention_head import HierarchicalMSAttentionHead

__all__ = ['HierarchicalMSAttentionHead']
