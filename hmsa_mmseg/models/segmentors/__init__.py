from .multi_scale_attention_segmentor import MultiScaleAttentionSegmentor

__all__ = ['MultiScaleAttentionSegmentor']
