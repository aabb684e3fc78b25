"""A model as the options of a run ask for it, and its predictions."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import CityscapesDataset
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import nn

from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS
from hmsa_mmseg.engine.hooks import InferencePreparationHook
from hmsa_mmseg.models.inference import prepare_for_inference
from hmsa_mmseg.models.segmentors import (
    AccumulatingTTAModel,
    MultiScaleAttentionSegmentor,
)
from hmsa_mmseg.utils.loading import load_model

from .errors import InferError, in_one_line
from .pipeline import Loaded, find_dataset
from .products import OF_LOGITS, OF_SCALES

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
        ('--memory-budget', 'memory_budget', args.memory_budget),
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
    _check_saves(args, test_cfg)
    shows_scales = {*args.save} & {*OF_SCALES, 'report'}
    if is_multi_scale and shows_scales:
        test_cfg['scale_maps'] = True
    if args.slide is not None:
        crop_size, stride = args.slide
        test_cfg.update(mode='slide', crop_size=crop_size, stride=stride)
    cfg.model.test_cfg = test_cfg


def _check_saves(args: argparse.Namespace, test_cfg: Mapping) -> None:
    saves = [s for s in args.save if s in (*OF_SCALES, *OF_LOGITS)]
    named = ', '.join(f'--save {save}' for save in saves)
    if args.flip and saves:
        raise InferError(
            '--flip averages the logits of an image and its mirror image, '
            f'and keeps nothing else, which {named} would show; expected one '
            'of them, or --save overlay, classes and color only'
        )
    of_logits = [save for save in saves if save in OF_LOGITS]
    if of_logits and test_cfg.get('classes_only'):
        raise InferError(
            f'--save {of_logits[0]} needs the logits that '
            'model.test_cfg.classes_only=True does not keep; remove one'
        )


class Predictor:
    """A loaded model that predicts prepared images.

    Args:
        cfg (Config): With :func:`apply_options`.
        checkpoint (str): Path of its weights.
        device (str): Where it runs.
        flip (bool): Whether logits of an image and its mirror image are
            averaged.

    Raises:
        InferError: If classes are not known, or cannot be those of the model,
            or the model is none of semantic segmentation.
        OSError, ValueError: If the checkpoint does not fit, see
            :func:`hmsa_mmseg.utils.loading.load_model`.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str, flip: bool = False
    ) -> None:
        model = load_model(cfg, checkpoint)
        if not isinstance(model, EncoderDecoder):
            raise InferError(
                f'{cfg.filename}: model is a {type(model).__name__}; '
                'expected an EncoderDecoder of mmseg or one of its kind'
            )
        self.classes, self.palette = _read_classes(cfg, checkpoint, model)
        self.model = _prepared(_moved(model, device), cfg)
        self.tta = AccumulatingTTAModel(self.model).eval() if flip else None

    @property
    def scales(self) -> tuple[float, ...]:
        """tuple[float]: Lowest first; none of a stock model."""
        if not isinstance(self.model, MultiScaleAttentionSegmentor):
            return ()
        return tuple(sorted(map(float, self.model.test_cfg['scales'])))

    def check_attention(self) -> None:
        """Refuse ``--save attention`` of a head that has none.

        Raises:
            InferError: If there is none.
        """
        if not self.model.decode_head.num_scale_attns(len(self.scales)):
            raise InferError(
                '--save attention: there is no attention between scales '
                f'{self.scales} of a {type(self.model.decode_head).__name__};'
                ' expected a HierarchicalMSAttentionHead at two scales or '
                'more; --save weights shows the part of each scale'
            )

    @torch.no_grad()
    def __call__(self, batch: Sequence[Loaded]) -> list[SegDataSample]:
        """Predict images of one shape.

        Args:
            batch (Sequence[Loaded]): The images.

        Returns:
            list[SegDataSample]: On the CPU, at each image's original size.
        """
        inputs = [loaded.inputs for loaded in batch]
        samples = [loaded.data_sample.clone() for loaded in batch]
        if self.tta is None:
            data = dict(inputs=inputs, data_samples=samples)
            results = self.model.test_step(data)
        else:
            flipped = [sample.clone() for sample in samples]
            for sample in flipped:
                sample.set_metainfo(
                    dict(flip=True, flip_direction='horizontal')
                )
            views = [inputs, [image.flip(-1) for image in inputs]]
            results = self.tta.test_step(
                dict(inputs=views, data_samples=[samples, flipped])
            )
        return [result.cpu() for result in results]


def read_label_ids(cfg: Config, num_classes: int) -> np.ndarray:
    """Find the numbers that a data set's own label files have for classes.

    Args:
        cfg (Config): Its test set is looked at.
        num_classes (int): Of the model.

    Returns:
        ndarray: int64 (K,). Cityscapes: the label ids of its benchmark
        (cityscapesScripts, helpers/labels.py); data sets with
        ``reduce_zero_label``, such as ADE20K: one more than the class.

    Raises:
        InferError: If they are not known.
    """
    dataset = find_dataset(cfg)
    known = dataset.get('type')
    known = DATASETS.get(known) if isinstance(known, str) else known
    if inspect.isclass(known):
        if issubclass(known, CityscapesDataset):
            ids = np.array(EVALUATED_IDS)
            if len(ids) == num_classes:
                return ids
        default = inspect.signature(known.__init__).parameters.get(
            'reduce_zero_label'
        )
        reduces = default is not None and default.default is True
        if dataset.get('reduce_zero_label', reduces) is True:
            return np.arange(num_classes) + 1
    raise InferError(
        f'--label-ids: test_dataloader.dataset is {dataset.get("type")}, the '
        f'model has {num_classes} classes; expected a Cityscapes data set '
        'with its 19 classes, or one with reduce_zero_label=True. Of others '
        'the number of the class is what is known'
    )


def _is_multi_scale(model: Mapping) -> bool:
    known = model.get('type')
    known = MODELS.get(known) if isinstance(known, str) else known
    return inspect.isclass(known) and issubclass(
        known, MultiScaleAttentionSegmentor
    )


def _read_classes(
    cfg: Config, checkpoint: str, model: nn.Module
) -> tuple[tuple[str, ...], Any]:
    meta = model.dataset_meta or {}
    classes = meta.get('classes')
    if not classes:
        raise InferError(
            f'neither {checkpoint} nor test_dataloader.dataset of '
            f'{cfg.filename} says what the classes are; expected for example '
            "--cfg-options test_dataloader.dataset.metainfo.classes='(road,"
            "sky)'"
        )
    if len(classes) != model.num_classes:
        raise InferError(
            f'{checkpoint} or test_dataloader.dataset of {cfg.filename} '
            f'names {len(classes)} classes, the model has '
            f'{model.num_classes}; expected as many'
        )
    return tuple(classes), meta.get('palette')


def _moved(model: nn.Module, device: str) -> nn.Module:
    try:
        return model.to(device)
    # torch has no common type of error for a device that is not there.
    except (RuntimeError, AssertionError) as error:
        raise InferError(
            f'--device {device}: {in_one_line(error)}; expected a device '
            'that this torch can use, such as cpu'
        ) from error


def _prepared(model: nn.Module, cfg: Config) -> nn.Module:
    """Prepare a model as a test with this config would."""
    for hook in cfg.get('custom_hooks') or []:
        options = dict(hook)
        options.pop('priority', None)
        if options.pop('type') in (
            'InferencePreparationHook',
            InferencePreparationHook,
        ):
            options = InferencePreparationHook(**options).options
            return prepare_for_inference(model, **options)
    return model
