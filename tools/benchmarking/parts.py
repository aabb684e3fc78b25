"""The parts of a model that a profile of inference tells apart."""

from __future__ import annotations

from typing import Any

from hmsa_mmseg.models.decode_heads import hierarchical_ms_attention_head
from hmsa_mmseg.models.segmentors import multi_scale_attention_segmentor
from hmsa_mmseg.models.tiled import ocr
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits

from .stopwatch import Part

#: All that is neither backbone nor heads.
OUTSIDE = ('fusion', 'resizing the image', 'results and all else')


def inference_parts(model: Any) -> list[Part]:
    """Parts of ``predict`` of a model with OCRNet's heads, fast or plain.

    Args:
        model (nn.Module): A ``MultiScaleAttentionSegmentor`` with
            ``HierarchicalMSAttentionHead``.

    Returns:
        list[tuple]: For :class:`Stopwatch`. The heads' own layers are left
        alone: those with another ``forward`` would not take the fast path.
    """
    head = model.decode_head
    fusion, resizing, rest = OUTSIDE
    segmentor = multi_scale_attention_segmentor
    fusions = hierarchical_ms_attention_head
    return [
        (rest, model, 'predict'),
        (resizing, segmentor, 'resize_image'),
        (fusion, fusions, 'fuse_scales'),
        ('backbone', model.backbone, 'forward'),
        ('attention', head.scale_attn, 'forward'),
        ('seg heads, the rest', head, 'forward_seg_heads'),
        # Of the fast path.
        (fusion, FusedLogits, 'make'),
        ("OCRNet's heads, first convolutions", ocr, 'conv_of_levels'),
    ]
