"""State-dict keys of NVIDIA/semantic-segmentation and ours, both ways.

"Theirs" are the keys of ``ocrnet.HRNet_Mscale`` and ``ocrnet.HRNet`` (their
network/ocrnet.py) without the prefix ``module.``; "ours" those of
``configs/hmsa/hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .key_maps import (
    KeyConversion,
    Shapes,
    State,
    convert_keys,
    invert,
    rename,
)

FCN = 'decode_head.seg_head.0.'
OCR = 'decode_head.seg_head.1.'
ATTN = 'decode_head.scale_attn.'
_THEIR_BLOCK = 'ocr.ocr_distri_head.object_context_block.'
_OUR_BLOCK = f'{OCR}object_context_block.'
# Of a convolution and its batch norm, theirs at a number and at the next one.
_CONV_MODULES = (
    ('ocr.aux_head.', 0, f'{FCN}convs.0.'),
    ('ocr.conv3x3_ocr.', 0, f'{OCR}bottleneck.'),
    (f'{_THEIR_BLOCK}f_pixel.', 0, f'{_OUR_BLOCK}query_project.0.'),
    (f'{_THEIR_BLOCK}f_pixel.', 2, f'{_OUR_BLOCK}query_project.1.'),
    (f'{_THEIR_BLOCK}f_object.', 0, f'{_OUR_BLOCK}key_project.0.'),
    (f'{_THEIR_BLOCK}f_object.', 2, f'{_OUR_BLOCK}key_project.1.'),
    (f'{_THEIR_BLOCK}f_down.', 0, f'{_OUR_BLOCK}value_project.'),
    (f'{_THEIR_BLOCK}f_up.', 0, f'{_OUR_BLOCK}out_project.'),
    ('ocr.ocr_distri_head.conv_bn_dropout.', 0, f'{_OUR_BLOCK}bottleneck.'),
)
# And their numbers in network/utils.py: old_make_attn_head.
_ATTN_LAYERS = dict(conv0=0, bn0=1, conv1=3, bn1=4, conv2=6)
# Start of their key -> start of ours. Where two of theirs lead to one of
# ours, the first is written on the way back.
KEY_MAP = (
    ('backbone.', 'backbone.'),
    ('ocr.aux_head.2.', f'{FCN}conv_seg.'),
    ('ocr.cls_head.', f'{OCR}conv_seg.'),
    *((f'{a}{k}.', f'{b}conv.') for a, k, b in _CONV_MODULES),
    *((f'{a}{k + 1}.0.', f'{b}bn.') for a, k, b in _CONV_MODULES),
    *((f'scale_attn.{name}.', f'{ATTN}{name}.') for name in _ATTN_LAYERS),
    *(
        (f'scale_attn.{index}.', f'{ATTN}{name}.')
        for name, index in _ATTN_LAYERS.items()
    ),
)
# Two of their convolutions have a bias before a batch norm, which subtracts
# it again: (conv(x) + b) - mean = conv(x) - (mean - b).
FOLDED = {
    'ocr.aux_head.0.bias': 'ocr.aux_head.1.0.running_mean',
    'ocr.conv3x3_ocr.0.bias': 'ocr.conv3x3_ocr.1.0.running_mean',
}


def nvidia_to_ours(state: State, shapes: Shapes) -> KeyConversion:
    """Convert the authors' state dict to ours."""
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


def ours_to_nvidia(state: State, shapes: Shapes) -> KeyConversion:
    """Convert ours to the authors'; biases that ours lacks are zero."""
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
