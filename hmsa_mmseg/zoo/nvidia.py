"""Checkpoints of NVIDIA/semantic-segmentation as mmseg's, and back.

Those of ``ocrnet.HRNet_Mscale`` and of ``ocrnet.HRNet``, the same network at
one scale, without an attention branch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, MODELS

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import read_state_dict

from .key_maps import KeyConversion
from .nvidia_keys import OCR, nvidia_to_ours, ours_to_nvidia, without_attn

_THEIR_CLASSIFIER = 'ocr.cls_head.weight'
_OUR_CLASSIFIER = f'{OCR}conv_seg.weight'
# Number of classes -> the data set the authors trained on. Theirs lacks
# `Unlabeled`, the last of Mapillary's 66 classes in mmseg.
_TRAINED_ON = {19: 'CityscapesDataset', 65: 'MapillaryDataset_v1'}


def convert_file(
    src: str,
    dst: str,
    config: str | os.PathLike,
    reverse: bool = False,
    layout: str = 'hmsa',
) -> KeyConversion:
    """Convert a file, and write the result if all of it fits.

    Returns:
        KeyConversion: What became of each entry.
    """
    if Path(src).resolve() == Path(dst).resolve():
        raise ValueError(f'{dst} is the source; expected another file name')
    about, state = _read(src, reverse)
    classifier = _OUR_CLASSIFIER if reverse else _THEIR_CLASSIFIER
    num_classes = len(state[classifier])
    cfg = Config.fromfile(config)
    cfg.model.decode_head.num_classes = num_classes
    in_mmseg = DefaultScope.overwrite_default_scope('mmseg')
    with in_mmseg, torch.device('meta'):
        model = MODELS.build({**cfg.model, 'pretrained': None})
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    convert = ours_to_nvidia if reverse else nvidia_to_ours
    result = convert(state, shapes)
    result.check(src)
    state = result.state_dict
    if reverse:
        has_attn = any(key.startswith('scale_attn.') for key in state)
        output = dict(
            arch='ocrnet.HRNet_Mscale' if has_attn else 'ocrnet.HRNet',
            num_classes=num_classes,
            state_dict={f'module.{key}': state[key] for key in state},
        )
    else:
        meta = _meta(about, num_classes)
        if layout == 'hmsa':
            # MMSegInferencer(weights=...) needs nothing else.
            meta['cfg'] = cfg.pretty_text
        else:
            state = {
                key.replace('.seg_head.', '.'): value
                for key, value in without_attn(state).items()
            }
        output = dict(meta=meta, state_dict=state)
    with atomic_file(dst) as file:
        torch.save(output, file)
    return result


def _read(path: str, reverse: bool) -> tuple[dict, dict]:
    """Read what a file says about itself, and its state dict.

    The latter with the keys of our model if it is one of mmseg's OCRNet.
    """
    about, state = read_state_dict(path)
    if reverse:
        # mmseg's OCRNet lacks the level `seg_head`.
        pattern = re.compile(r'^decode_head\.([01])\.')
        state = {
            pattern.sub(r'decode_head.seg_head.\1.', key): value
            for key, value in state.items()
        }
    _check_network(path, about.get('arch', 'not named'), state, reverse)
    attn = {'scale_attn.conv0.weight', 'scale_attn.conv1.weight'}
    if attn & state.keys() == {'scale_attn.conv0.weight'}:
        raise ValueError(
            f'{path} was trained with --mscale_no3x3: its attention branch '
            'has one 3x3 convolution, scale_attn.conv0; expected two, as '
            'HierarchicalMSAttentionHead has, the other scale_attn.conv1'
        )
    return about, state


def _check_network(path: str, arch: str, state: dict, reverse: bool) -> None:
    theirs, ours = _THEIR_CLASSIFIER in state, _OUR_CLASSIFIER in state
    if ours if reverse else theirs:
        return
    expected = (
        "the authors' ocrnet.HRNet_Mscale or ocrnet.HRNet, with the entry "
        f'{_THEIR_CLASSIFIER}'
    )
    if reverse:
        expected = (
            'HRNet-W48 + OCR of this package, with the entry '
            f'{_OUR_CLASSIFIER}, or of mmseg'
        )
    hint = ''
    if theirs or ours:
        hint = f'; for this file {"omit" if reverse else "give"} --reverse'
    raise ValueError(
        f'{path} holds another network: found architecture {arch}, '
        f'{len(state)} entries, the first {", ".join([*state][:3])}; '
        f'expected {expected}{hint}'
    )


def _meta(about: dict, num_classes: int) -> dict:
    """What a file says, of plain types, and the classes it is for."""
    meta = {}
    for key, plain in (('arch', str), ('epoch', int), ('mean_iu', float)):
        if isinstance(about.get(key), plain):
            meta[f'source_{key}'] = plain(about[key])
    if num_classes in _TRAINED_ON:
        metainfo = DATASETS.get(_TRAINED_ON[num_classes]).METAINFO
        meta['dataset_meta'] = {
            key: list(metainfo[key])[:num_classes]
            for key in ('classes', 'palette')
        }
    return meta
