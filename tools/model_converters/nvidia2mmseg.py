"""Convert weights of NVIDIA/semantic-segmentation, and back.

Takes the files of their ``ocrnet.HRNet_Mscale`` and of ``ocrnet.HRNet``, the
same network at one scale, without an attention branch. Every entry of the
file must find its place in our model and every entry of our model must be
filled; otherwise nothing is written.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, MODELS

from hmsa_mmseg.utils import atomic_file, safe_load
from hmsa_mmseg.zoo.key_maps import KeyConversion, Shapes
from hmsa_mmseg.zoo.nvidia_keys import (
    OCR,
    nvidia_to_ours,
    ours_to_nvidia,
    without_attn,
)

# The same place in a checkout and in an installed package (`.mim`).
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT.joinpath(
    'configs/hmsa',
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py',
)
THEIR_CLASSIFIER = 'ocr.cls_head.weight'
OUR_CLASSIFIER = f'{OCR}conv_seg.weight'
# Number of classes -> the data set the authors trained on. Theirs lacks
# `Unlabeled`, the last of Mapillary's 66 classes in mmseg.
TRAINED_ON = {19: 'CityscapesDataset', 65: 'MapillaryDataset_v1'}


def read_state_dict(path: str, reverse: bool = False) -> tuple[dict, dict]:
    """Read a file that can be converted.

    Args:
        path (str): The file.
        reverse (bool): Whether it should be one of ours, not the authors'.

    Returns:
        tuple[dict, dict]: What the file says about itself, and its state
        dict without the prefix ``module.``, with the keys of our model if it
        is one of mmseg's OCRNet.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged or holds another network.
    """
    loaded = safe_load(path)
    about = loaded if isinstance(loaded, dict) else {}
    state = about.get('state_dict', about)
    if not isinstance(state, dict) or not state:
        raise ValueError(f'{path}: expected a state dict, got {type(loaded)}')
    if all(str(key).startswith('module.') for key in state):
        state = {key[len('module.') :]: value for key, value in state.items()}
    if reverse:
        # mmseg's OCRNet lacks the level `seg_head`.
        pattern = re.compile(r'^decode_head\.([01])\.')
        state = {
            pattern.sub(r'decode_head.seg_head.\1.', str(key)): value
            for key, value in state.items()
        }
    _check_network(path, about.get('arch', 'not named'), state, reverse)
    for key, value in state.items():
        if not torch.is_tensor(value):
            raise ValueError(f'{path}: {key} is no tensor: {type(value)}')
    attn = {'scale_attn.conv0.weight', 'scale_attn.conv1.weight'}
    if attn & state.keys() == {'scale_attn.conv0.weight'}:
        raise ValueError(
            f'{path} was trained with --mscale_no3x3: its attention branch '
            'has one 3x3 convolution, scale_attn.conv0; expected two, as '
            'HierarchicalMSAttentionHead has, the other scale_attn.conv1'
        )
    return about, state


def _check_network(path: str, arch: str, state: dict, reverse: bool) -> None:
    theirs, ours = THEIR_CLASSIFIER in state, OUR_CLASSIFIER in state
    if ours if reverse else theirs:
        return
    expected = (
        "the authors' ocrnet.HRNet_Mscale or ocrnet.HRNet, with the entry "
        f'{THEIR_CLASSIFIER}'
    )
    if reverse:
        expected = (
            f'HRNet-W48 + OCR of this package, with the entry {OUR_CLASSIFIER}'
            ', or of mmseg'
        )
    hint = ''
    if theirs or ours:
        hint = f'; for this file {"omit" if reverse else "give"} --reverse'
    first = ', '.join(str(key) for key in list(state)[:3])
    raise ValueError(
        f'{path} holds another network: found architecture {arch}, '
        f'{len(state)} entries, the first {first}; expected {expected}{hint}'
    )


def load_model_cfg(num_classes: int) -> tuple[Config, Shapes]:
    """Read the config of the authors' model.

    Args:
        num_classes (int): Number of classes.

    Returns:
        tuple: The config, and key -> shape of the state dict of its model.
    """
    cfg = Config.fromfile(CONFIG)
    cfg.model.decode_head.num_classes = num_classes
    in_mmseg = DefaultScope.overwrite_default_scope('mmseg')
    with in_mmseg, torch.device('meta'):
        model = MODELS.build({**cfg.model, 'pretrained': None})
    return cfg, {k: value.shape for k, value in model.state_dict().items()}


def to_checkpoint(
    state: dict, about: dict, num_classes: int, cfg: Config, layout: str
) -> dict:
    """Make a checkpoint that mmseg's tools take.

    Args:
        state (dict[str, Tensor]): With the keys of our model.
        about (dict): The authors' file.
        num_classes (int): Number of classes.
        cfg (Config): Of our model. It goes into the checkpoint, so that
            ``MMSegInferencer(weights=...)`` needs nothing else.
        layout (str): ``hmsa``, or ``ocrnet`` for mmseg's own OCRNet.

    Returns:
        dict: ``meta`` of plain types, and ``state_dict``.
    """
    meta = {}
    for key, plain in (('arch', str), ('epoch', int), ('mean_iu', float)):
        if isinstance(about.get(key), plain):
            meta[f'source_{key}'] = plain(about[key])
    if num_classes in TRAINED_ON:
        metainfo = DATASETS.get(TRAINED_ON[num_classes]).METAINFO
        meta['dataset_meta'] = {
            key: list(metainfo[key])[:num_classes]
            for key in ('classes', 'palette')
        }
    if layout == 'hmsa':
        meta['cfg'] = cfg.pretty_text
    else:
        state = {
            key.replace('.seg_head.', '.'): value
            for key, value in without_attn(state).items()
        }
    return dict(meta=meta, state_dict=state)


def to_nvidia_checkpoint(state: dict, num_classes: int) -> dict:
    """Make a file that the authors' ``train.py --snapshot`` takes."""
    has_attn = any(key.startswith('scale_attn.') for key in state)
    return dict(
        arch='ocrnet.HRNet_Mscale' if has_attn else 'ocrnet.HRNet',
        num_classes=num_classes,
        state_dict={f'module.{key}': value for key, value in state.items()},
    )


def convert_file(
    src: str, dst: str, reverse: bool = False, layout: str = 'hmsa'
) -> KeyConversion:
    """Convert a file, and write the result if all of it fits.

    Args:
        src (str): File to convert.
        dst (str): File to write.
        reverse (bool): Whether to write a file for the authors' code.
        layout (str): ``hmsa``, or ``ocrnet`` for mmseg's own OCRNet.

    Returns:
        KeyConversion: What became of each entry.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If ``src`` does not hold what is expected.
    """
    if Path(src).resolve() == Path(dst).resolve():
        raise ValueError(f'{dst} is the source; expected another file name')
    about, state = read_state_dict(src, reverse)
    num_classes = len(state[OUR_CLASSIFIER if reverse else THEIR_CLASSIFIER])
    cfg, shapes = load_model_cfg(num_classes)
    convert = ours_to_nvidia if reverse else nvidia_to_ours
    result = convert(state, shapes)
    result.check(src)
    state = result.state_dict
    if reverse:
        output = to_nvidia_checkpoint(state, num_classes)
    else:
        output = to_checkpoint(state, about, num_classes, cfg, layout)
    with atomic_file(dst) as file:
        torch.save(output, file)
    return result


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Convert the authors' HRNet-OCR models to MMSegmentation "
        'style, or back.'
    )
    parser.add_argument('src', help='src model path')
    # The dst path must be a full path of the new checkpoint.
    parser.add_argument('dst', help='save path')
    parser.add_argument(
        '--reverse',
        action='store_true',
        help="make a file for the authors' code (--snapshot) from a "
        'checkpoint of this package or of OCRNet of mmseg',
    )
    parser.add_argument(
        '--layout',
        choices=('hmsa', 'ocrnet'),
        default='hmsa',
        help='the model to make a checkpoint for: that of this package, or '
        'OCRNet of mmseg, without the attention branch. Default: hmsa',
    )
    parser.add_argument(
        '--verbose', action='store_true', help='list what became of each entry'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert a file; 1, and nothing written, if it does not fit."""
    args = parse_args(argv)
    try:
        result = convert_file(args.src, args.dst, args.reverse, args.layout)
    except (OSError, ValueError) as error:
        print(f'error: {error}\nnothing was written', file=sys.stderr)
        return 1
    print(f'{args.src}: all {len(result.used)} entries used, none missing')
    if args.verbose:
        for key, new_key in result.used.items():
            print(f'  {key} -> {new_key}')
    if not any('scale_attn.' in key for key in result.used):
        print('no attention branch: it keeps the initial values of the model')
    elif args.layout == 'ocrnet' and not args.reverse:
        print('left out: the attention branch, which OCRNet of mmseg lacks')
    print(f'wrote {args.dst}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
