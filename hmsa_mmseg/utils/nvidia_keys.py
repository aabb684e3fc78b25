"""State-dict keys of NVIDIA/semantic-segmentation and ours, both ways.

"Theirs" are the keys of ``ocrnet.HRNet_Mscale`` and ``ocrnet.HRNet`` (their
network/ocrnet.py) without the prefix ``module.``; "ours" those of
``configs/hmsa/hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .key_maps import Conversion, Shapes, State, convert_keys, invert, rename

FCN = 'decode_head.seg_head.0.'
OCR = 'decode_head.seg_head.1.'
ATTN = 'decode_head.scale_attn.'
THEIR_BLOCK = 'ocr.ocr_distri_head.object_context_block.'
OUR_BLOCK = f'{OCR}object_context_block.'
# Start of their key -> start of ours. Where two of theirs lead to one of
# ours, the first is written on the way back.
KEY_MAP = (
    ('backbone.', 'backbone.'),
    ('ocr.aux_head.0.', f'{FCN}convs.0.conv.'),
    ('ocr.aux_head.1.0.', f'{FCN}convs.0.bn.'),
    ('ocr.aux_head.2.', f'{FCN}conv_seg.'),
    ('ocr.conv3x3_ocr.0.', f'{OCR}bottleneck.conv.'),
    ('ocr.conv3x3_ocr.1.0.', f'{OCR}bottleneck.bn.'),
    (f'{THEIR_BLOCK}f_pixel.0.', f'{OUR_BLOCK}query_project.0.conv.'),
    (f'{THEIR_BLOCK}f_pixel.1.0.', f'{OUR_BLOCK}query_project.0.bn.'),
    (f'{THEIR_BLOCK}f_pixel.2.', f'{OUR_BLOCK}query_project.1.conv.'),
    (f'{THEIR_BLOCK}f_pixel.3.0.', f'{OUR_BLOCK}query_project.1.bn.'),
    (f'{THEIR_BLOCK}f_object.0.', f'{OUR_BLOCK}key_project.0.conv.'),
    (f'{THEIR_BLOCK}f_object.1.0.', f'{OUR_BLOCK}key_project.0.bn.'),
    (f'{THEIR_BLOCK}f_object.2.', f'{OUR_BLOCK}key_project.1.conv.'),
    (f'{THEIR_BLOCK}f_object.3.0.', f'{OUR_BLOCK}key_project.1.bn.'),
    (f'{THEIR_BLOCK}f_down.0.', f'{OUR_BLOCK}value_project.conv.'),
    (f'{THEIR_BLOCK}f_down.1.0.', f'{OUR_BLOCK}value_project.bn.'),
    (f'{THEIR_BLOCK}f_up.0.', f'{OUR_BLOCK}out_project.conv.'),
    (f'{THEIR_BLOCK}f_up.1.0.', f'{OUR_BLOCK}out_project.bn.'),
    ('ocr.ocr_distri_head.conv_bn_dropout.0.', f'{OUR_BLOCK}bottleneck.conv.'),
    ('ocr.ocr_distri_head.conv_bn_dropout.1.0.', f'{OUR_BLOCK}bottleneck.bn.'),
    ('ocr.cls_head.', f'{OCR}conv_seg.'),
    ('scale_attn.conv0.', f'{ATTN}conv0.'),
    ('scale_attn.bn0.', f'{ATTN}bn0.'),
    ('scale_attn.conv1.', f'{ATTN}conv1.'),
    ('scale_attn.bn1.', f'{ATTN}bn1.'),
    ('scale_attn.conv2.', f'{ATTN}conv2.'),
    # network/utils.py: old_make_attn_head, the same layers
    ('scale_attn.0.', f'{ATTN}conv0.'),
    ('scale_attn.1.', f'{ATTN}bn0.'),
    ('scale_attn.3.', f'{ATTN}conv1.'),
    ('scale_attn.4.', f'{ATTN}bn1.'),
    ('scale_attn.6.', f'{ATTN}conv2.'),
)
# Two of their convolutions have a bias before a batch norm, which subtracts
# it again: (conv(x) + b) - mean = conv(x) - (mean - b).
FOLDED = {
    'ocr.aux_head.0.bias': 'ocr.aux_head.1.0.running_mean',
    'ocr.conv3x3_ocr.0.bias': 'ocr.conv3x3_ocr.1.0.running_mean',
}


def nvidia_to_ours(state: State, shapes: Shapes) -> Conversion:
    """Convert the authors' state dict to ours.

    Args:
        state (Mapping[str, Tensor]): With their keys. Without an attention
            branch in it the result has none either.
        shapes (Mapping[str, torch.Size]): Those of our model's state dict.

    Returns:
        Conversion: Not checked yet.
    """
    state = dict(state)
    folded = {}
    for bias, mean in FOLDED.items():
        # A bias that cannot be folded stays, and is reported as left over.
        both = {bias, mean} <= state.keys()
        if both and state[bias].shape == state[mean].shape:
            state[mean] = state[mean] - state.pop(bias)
            folded[bias] = f'subtracted from {rename(mean, KEY_MAP)}'
    missing = [key for key in FOLDED if key not in {*state, *folded}]
    if not any(key.startswith('scale_attn.') for key in state):
        shapes = without_attn(shapes)
    result = convert_keys(state, KEY_MAP, shapes)
    result.used.update(folded)
    result.missing += missing
    return result


def ours_to_nvidia(state: State, shapes: Shapes) -> Conversion:
    """Convert our state dict to the authors'.

    Args:
        state (Mapping[str, Tensor]): With our keys. Without an attention
            branch in it the result has none either.
        shapes (Mapping[str, torch.Size]): Those of our model's state dict.

    Returns:
        Conversion: Not checked yet. The biases that ours lacks are zero.
    """
    if not any(key.startswith(ATTN) for key in state):
        shapes = without_attn(shapes)
    inverse = invert(KEY_MAP)
    shapes = {rename(key, inverse): shape for key, shape in shapes.items()}
    result = convert_keys(state, inverse, shapes)
    for bias, mean in FOLDED.items():
        if mean in result.state_dict:
            result.state_dict[bias] = torch.zeros_like(result.state_dict[mean])
    return result


def without_attn(state: Mapping) -> dict:
    """Leave the attention branch out of a mapping with our keys."""
    return {k: v for k, v in state.items() if not k.startswith(ATTN)}
