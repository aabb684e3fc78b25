from .accumulating_tta_model import AccumulatingTTAModel
from .multi_scale_attention_segmentor import MultiScaleAttentionSegmentor

__all__ = ['AccumulatingTTAModel', 'MultiScaleAttentionSegmentor']
