"""From a config of mmseg's zoo to one of this package.

What is the zoo's stays: data, schedule, losses, optimizer, auxiliary heads,
preprocessing, windows at test time. What changes is listed with the result.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from torch import nn

from hmsa_mmseg.models.decode_heads.classifiers import find_classifier
from hmsa_mmseg.models.scale_fusion import check_scales

from .refusals import NotConvertible, refuse_head, refuse_segmentor
from .tta import flips_only

PACKAGE = 'hmsa_mmseg'
#: At test time, the paper's.
DEFAULT_SCALES = (0.5, 1.0, 2.0)
# What mmseg's EncoderDecoder reads of test_cfg.
_TEST_KEYS = ('mode', 'crop_size', 'stride')
# Layers of mmseg made for one size of image, and ours for any.
ANY_SIZE = {
    'BEiT': 'AnySizeBEiT',
    'MAE': 'AnySizeMAE',
    'LRASPPHead': 'AnySizeLRASPPHead',
}


class Conversion(NamedTuple):
    """A converted config and what was changed.

    Attributes:
        cfg (Config): Of the multi-scale model.
        changes (dict[str, str]): By the dotted key of what was changed, a
            sentence about it.
    """

    cfg: Config
    changes: dict[str, str]


def single_scale(cfg: Config) -> Conversion:
    """Prepare the model of a config, as it is, to be compared with.

    The package's hooks draw what the multi-scale model's run draws, and
    mmcv-lite is enough for mmseg's tools.

    Args:
        cfg (Config): Of a training run of mmseg; it is left as it is.

    Returns:
        Conversion: The config and what was changed.

    Raises:
        NotConvertible: If there is no multi-scale model of it.
    """
    convert(cfg)
    new, changes = _with_preprocessor(cfg), {}
    _convert_imports(new)
    _convert_hooks(new, changes)
    return Conversion(new, changes)


def to_multi_scale(cfg: Config, **kwargs) -> Config:
    """Turn the config of an encoder-decoder into a multi-scale one.

    Args:
        cfg (Config): Of a training run of mmseg; it is left as it is.
        **kwargs: As for :func:`convert`.

    Returns:
        Config: With our segmentor and head around the model's own.

    Raises:
        NotConvertible: If the model has no place for attention.
        ValueError: If the scales make no sense.
    """
    return convert(cfg, **kwargs).cfg


def convert(
    cfg: Config,
    *,
    train_scales: Sequence[float] = (0.5, 1.0),
    test_scales: Sequence[float] = DEFAULT_SCALES,
) -> Conversion:
    """Turn the config of an encoder-decoder into a multi-scale one.

    Args:
        cfg (Config): Of a training run of mmseg; it is left as it is.
        train_scales (Sequence[float]): Relative image sizes in training, two
            or more. Defaults to (0.5, 1.0), the paper's.
        test_scales (Sequence[float]): Relative image sizes at test time.
            Defaults to (0.5, 1.0, 2.0), the paper's.

    Returns:
        Conversion: The config and what was changed.

    Raises:
        NotConvertible: If the model has no place for attention.
        ValueError: If the scales make no sense.
    """
    check_scales(train_scales, key='train_scales', min_scales=2)
    check_scales(test_scales, key='test_scales', min_scales=1)
    new = _with_preprocessor(cfg)
    changes: dict[str, str] = {}
    _convert_model(new.model, tuple(train_scales), tuple(test_scales), changes)
    _convert_imports(new)
    _convert_optimizer(new, changes)
    _convert_hooks(new, changes)
    flips_only(new, changes)
    return Conversion(new, changes)


def _with_preprocessor(cfg: Config) -> Config:
    """Copy a config, its preprocessor within the model."""
    new = copy.deepcopy(cfg)
    if not isinstance(new.get('model'), dict):
        raise NotConvertible(
            f'model={new.get("model")!r}: expected the config of a training '
            'run, whose model is a dict'
        )
    # As mmengine's Runner: what the model has goes first.
    if new.get('data_preprocessor') is not None:
        new.model.setdefault('data_preprocessor', new.data_preprocessor)
    return new


def _convert_model(
    model: ConfigDict,
    train_scales: tuple[float, ...],
    test_scales: tuple[float, ...],
    changes: dict[str, str],
) -> None:
    _check_segmentor(model)
    seg_head = model.decode_head
    heads = list(seg_head) if isinstance(seg_head, (list, tuple)) else None
    for head in heads or [seg_head]:
        refuse_head(head.get('type'))
        _replace_any_size(head, 'model.decode_head.seg_head.type', changes)
    _replace_any_size(model.backbone, 'model.backbone.type', changes)
    if heads is not None:
        model.pop('num_stages', None)
        changes['model.decode_head.seg_head'] = (
            'the cascade is a list; each of its heads runs once per scale'
        )
    for head in heads or [seg_head]:
        _check_head(head)
    changes['model.type'] = f'was {model.type}'
    model.type = 'MultiScaleAttentionSegmentor'
    changes['model.decode_head.type'] = "the zoo's decode head is its seg_head"
    model.decode_head = ConfigDict(
        type='HierarchicalMSAttentionHead', seg_head=heads or seg_head
    )
    left_out = {
        f'model.{name}.{key}': value
        for name, known in (('train_cfg', ()), ('test_cfg', _TEST_KEYS))
        for key, value in (model.get(name) or {}).items()
        if key not in known
    }
    for key, value in left_out.items():
        changes[key] = f'{value!r} was left out: no head here reads it'
    model.train_cfg = ConfigDict(scales=train_scales)
    if 1.0 in train_scales:
        # Those of all scales fit none: docs/training.md.
        model.train_cfg.stats_scale = 1.0
    changes['model.train_cfg'] = 'sizes at which an image is seen'

    test_cfg = {
        key: value
        for key, value in (model.get('test_cfg') or {}).items()
        if key in _TEST_KEYS
    }
    test_cfg.setdefault('mode', 'whole')
    if test_cfg['mode'] != 'slide':
        # Not read then.
        test_cfg = dict(mode=test_cfg['mode'])
    model.test_cfg = ConfigDict(**test_cfg, scales=test_scales)


def _check_segmentor(model: ConfigDict) -> None:
    name = model.get('type')
    refuse_segmentor(name)
    known = MODELS.get(name) if isinstance(name, str) else name
    if known not in (EncoderDecoder, CascadeEncoderDecoder):
        raise NotConvertible(
            f'model.type={name!r} is a segmentor of its own; expected '
            'EncoderDecoder or CascadeEncoderDecoder'
        )


def _replace_any_size(
    cfg: ConfigDict, key: str, changes: dict[str, str]
) -> None:
    name = cfg.get('type')
    if name in ANY_SIZE:
        cfg.type = ANY_SIZE[name]
        changes[key] = f'was {name}, which is made for one size of image'


def _check_head(cfg: ConfigDict) -> None:
    """Build a head and look for its classifier."""
    try:
        find_classifier(_build_head(cfg))
    # Constructors of heads have errors of many types.
    except Exception as error:
        text = ' '.join(str(error).split())
        raise NotConvertible(f'{cfg.get("type")}: {text[:300]}') from error


def _build_head(cfg: ConfigDict) -> nn.Module:
    try:
        # Without memory for weights, and the time to fill it.
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg))
    # Some constructors compute with tensors.
    except (NotImplementedError, RuntimeError):
        return MODELS.build(copy.deepcopy(cfg))


def _convert_imports(cfg: Config) -> None:
    """Import this package first: it prepares mmcv-lite for the others."""
    old = cfg.get('custom_imports') or {}
    imports = old.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    cfg.custom_imports = ConfigDict(
        imports=[PACKAGE, *(name for name in imports if name != PACKAGE)],
        allow_failed_imports=False,
    )


def _convert_optimizer(cfg: Config, changes: dict[str, str]) -> None:
    """Let keys of parameters below the decode head find them again."""
    optim_wrapper = cfg.get('optim_wrapper') or {}
    paramwise = optim_wrapper.get('paramwise_cfg') or {}
    custom = paramwise.get('custom_keys')
    if not isinstance(custom, Mapping):
        return
    below = 'decode_head.'
    renamed: dict[str, Any] = {}
    for key, value in custom.items():
        found = key
        if below in key and not key.endswith(below):
            found = key.replace(below, f'{below}seg_head.', 1)
            changes[f'optim_wrapper.paramwise_cfg.custom_keys.{found}'] = (
                f'was {key}'
            )
        renamed[found] = value
    paramwise['custom_keys'] = ConfigDict(renamed)


def _convert_hooks(cfg: Config, changes: dict[str, str]) -> None:
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if not hooks.get('checkpoint'):
        by_epoch = (cfg.get('train_cfg') or {}).get('by_epoch', False)
        hooks.checkpoint = ConfigDict(type='CheckpointHook', by_epoch=by_epoch)
    for holder, key, name, types, text in (
        (
            hooks,
            'default_hooks.checkpoint',
            'checkpoint',
            ('CheckpointHook', 'SafeCheckpointHook'),
            'its files load in torch 2.6 and newer',
        ),
        (
            hooks,
            'default_hooks.visualization',
            'visualization',
            ('SegVisualizationHook', 'ScaleMapsVisualizationHook'),
            'draws the pictures of tools/report.py',
        ),
        (
            cfg,
            'visualizer',
            'visualizer',
            ('SegLocalVisualizer', 'ScaleMapsVisualizer'),
            'draws the pictures of tools/report.py',
        ),
    ):
        old, new = types
        if (holder.get(name) or {}).get('type') == old:
            holder[name].type = new
            changes[f'{key}.type'] = f'was {old}; {text}'
