"""What an exported file says about itself."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..models import MultiScaleAttentionSegmentor
from ..version import __version__
from .graph import flips_channels
from .settings import ExportSettings


def describe(
    model: MultiScaleAttentionSegmentor, settings: ExportSettings
) -> dict[str, Any]:
    """Say in plain values what a file takes and gives.

    Args:
        model (MultiScaleAttentionSegmentor): Its ``dataset_meta`` names
            classes and colours. They are left out, with a warning, if there
            are more or fewer than the model has.
        settings (ExportSettings): With the scales that the file runs at.

    Returns:
        dict: What JSON can hold; None for what is not known.
    """
    info = getattr(model, 'dataset_meta', None) or {}
    classes = info.get('classes')
    if classes is not None and len(classes) != model.num_classes:
        print_log(
            f'the file will not name its classes: dataset_meta names '
            f'{len(classes)}, the model has {model.num_classes}',
            logger='current',
            level=logging.WARNING,
        )
        classes = None
    palette = None if classes is None else info.get('palette')
    if palette is not None:
        # Numpy's integers are none of JSON.
        palette = [[int(value) for value in colour] for colour in palette]
    is_onnx = settings.format == 'onnx'
    return dict(
        producer=f'hmsa_mmseg {__version__}',
        torch=torch.__version__,
        opset=settings.opset if is_onnx else None,
        scales=list(settings.scales),
        size=list(settings.size),
        dynamic=settings.dynamic,
        batch=settings.batch,
        raw=settings.raw,
        output='classes' if settings.classes else 'seg_logits',
        threshold=model.decode_head.threshold,
        num_classes=model.num_classes,
        classes=None if classes is None else list(classes),
        palette=palette,
        mean=_numbers(model, 'mean'),
        std=_numbers(model, 'std'),
        # Of the images as they are loaded, of which mean and std are in the
        # other order then.
        flips_channels=flips_channels(model),
    )


def _numbers(
    model: MultiScaleAttentionSegmentor, name: str
) -> list[float] | None:
    """Read mean or deviation of the preprocessor."""
    value = getattr(model.data_preprocessor, name, None)
    return value.flatten().tolist() if isinstance(value, Tensor) else None
