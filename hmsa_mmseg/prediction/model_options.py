"""Options of the command line that change what a model predicts."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from hmsa_mmseg.models.segmentors import MultiScaleAttentionSegmentor

from .errors import InferError
from .products import OF_SCALES

_CURE = (
    'MultiScaleAverageHead runs a checkpoint of a stock model at several '
    'scales, see configs/fusion'
)


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put the options that change predictions into a config, in place.

    Args:
        cfg (Config): Of a training or test run.
        args (Namespace): Of the command line.

    Raises:
        InferError: If the model has no such option.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    test_cfg = dict(cfg.model.get('test_cfg') or {})
    needing = [f'--save {save}' for save in args.save if save in OF_SCALES]
    for option, key, value in (
        ('--scales', 'scales', args.scales),
        ('--dtype', 'dtype', args.dtype),
    ):
        if value is not None:
            needing.append(option)
            test_cfg[key] = None if value == 'float32' else value
    is_multi_scale = _is_multi_scale(cfg.model)
    if needing and not is_multi_scale:
        raise InferError(
            f'{", ".join(needing)}: a model of type '
            f'{cfg.model.get("type")} has no scales to blend; expected '
            f'MultiScaleAttentionSegmentor. {_CURE}'
        )
    _check_saves(args)
    if is_multi_scale and _shows_scales(args):
        test_cfg['scale_maps'] = True
    if args.slide is not None:
        crop_size, stride = args.slide
        test_cfg.update(mode='slide', crop_size=crop_size, stride=stride)
    cfg.model.test_cfg = test_cfg


def _shows_scales(args: argparse.Namespace) -> bool:
    """Whether maps of scales are made. A report shows what there is."""
    of_scales = any(save in OF_SCALES for save in args.save)
    return of_scales or ('report' in args.save and not args.flip)


def _check_saves(args: argparse.Namespace) -> None:
    saves = [f'--save {save}' for save in args.save if save in OF_SCALES]
    if args.flip and saves:
        raise InferError(
            '--flip averages the logits of an image and its mirror image, '
            'and keeps nothing of single scales, which '
            f'{", ".join(saves)} would show; expected one of them'
        )


def _is_multi_scale(model: Mapping) -> bool:
    known = model.get('type')
    known = MODELS.get(known) if isinstance(known, str) else known
    return inspect.isclass(known) and issubclass(
        known, MultiScaleAttentionSegmentor
    )
