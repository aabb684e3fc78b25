"""Options of the command line, as a config and a data set take them."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping

import numpy as np
from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS, MODELS

from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS
from hmsa_mmseg.models.segmentors import MultiScaleAttentionSegmentor
from hmsa_mmseg.utils.loading import find_test_set

from .errors import PredictionError
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
        PredictionError: If the model has no such option.
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
        raise PredictionError(
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
        raise PredictionError(
            '--flip averages the logits of an image and its mirror image, '
            'and keeps nothing of single scales, which '
            f'{", ".join(saves)} would show; expected one of them'
        )


def _is_multi_scale(model: Mapping) -> bool:
    known = _class_of(model, MODELS)
    return known is not None and issubclass(
        known, MultiScaleAttentionSegmentor
    )


def read_label_ids(
    cfg: Config, num_classes: int, option: str = '--label-ids'
) -> np.ndarray:
    """Find the numbers that a data set's own label files have for classes.

    Args:
        cfg (Config): Its test set is looked at.
        num_classes (int): Of the model.
        option (str): That asks for them, for the message. Defaults to
            '--label-ids'.

    Returns:
        ndarray: int64 (K,). Cityscapes: the label ids of its benchmark
        (cityscapesScripts, helpers/labels.py); data sets with
        ``reduce_zero_label``, such as ADE20K: one more than the class.

    Raises:
        PredictionError: If they are not known.
    """
    if is_cityscapes(cfg) and num_classes == len(EVALUATED_IDS):
        return np.array(EVALUATED_IDS)
    dataset = find_test_set(cfg)
    known = _class_of(dataset, DATASETS)
    if known is not None:
        default = inspect.signature(known.__init__).parameters.get(
            'reduce_zero_label'
        )
        reduces = default is not None and default.default is True
        if dataset.get('reduce_zero_label', reduces) is True:
            return np.arange(num_classes) + 1
    raise PredictionError(
        f'{option}: test_dataloader.dataset is {dataset.get("type")}, the '
        f'model has {num_classes} classes; expected a Cityscapes data set '
        'with its 19 classes, or one with reduce_zero_label=True. Of others '
        'the number of the class is what is known'
    )


def is_cityscapes(cfg: Config) -> bool:
    """Whether the test set of a config is one of Cityscapes."""
    known = _class_of(find_test_set(cfg), DATASETS)
    return known is not None and issubclass(known, CityscapesDataset)


def _class_of(cfg: Mapping, registry: Registry) -> type | None:
    """Find the class that a ``type`` means."""
    known = cfg.get('type')
    known = registry.get(known) if isinstance(known, str) else known
    return known if inspect.isclass(known) else None
