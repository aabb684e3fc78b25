"""Exporting a model: graph, file, proof."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..models import MultiScaleAttentionSegmentor
from ..models.scale_fusion import check_scales
from ..utils import atomic_file
from ..version import __version__
from .formats import MAX_TRACED_OPSET, check_available, load, to_bytes
from .graph import ExportGraph, copy_for_inference, flips_channels
from .settings import (
    FORMATS,
    ExportError,
    ExportSettings,
    check_out_path,
    check_settings,
)
from .verification import (
    Verification,
    predict_expected,
    random_images,
    verify,
)


def export_model(
    model: MultiScaleAttentionSegmentor,
    path: str | os.PathLike,
    settings: ExportSettings,
    report: Callable[[Verification], None] | None = None,
) -> list[Verification]:
    """Export a model to a file, which is verified before it takes its place.

    Of a file that gives classes the same graph is written and verified with
    logits first: classes alone show only what changes the largest logit.

    Args:
        model (MultiScaleAttentionSegmentor): With its weights; left as it
            is. Classes and colours are taken from its ``dataset_meta``.
        path (str | os.PathLike): The file. What stood there stays if
            anything fails.
        settings (ExportSettings): What to export.
        report (Callable, optional): Called with each verification as soon as
            it is done.

    Returns:
        list[Verification]: On batches of one and of two images, or of
        ``settings.batch``, and at another size if that is variable. If the
        file gives classes, those of the logits come first.

    Raises:
        ExportError: If the model cannot be exported so, or the file does not
            predict what the model predicts.
        OSError: If the file cannot be written.
        ValueError: If the scales make no sense.
    """
    settings = _check(model, path, settings)
    metadata = describe(model, settings)
    model = copy_for_inference(model, settings.scales)
    graph = ExportGraph(model, settings)
    expected = predict_expected(model, settings, graph.channels)
    # Of a batch of one, torch.export makes a constant.
    shape = (settings.batch or 2, graph.channels, *settings.size)
    example = random_images(shape, settings.raw)
    threshold = model.decode_head.threshold
    path = Path(path)
    verified = []

    def prove(written: Path) -> None:
        predict = load(written, settings.format)
        for result in verify(predict, expected, threshold, graph.classes):
            verified.append(result)
            if report is not None:
                report(result)

    def write(path: Path, asked: ExportSettings) -> None:
        graph.classes = asked.classes
        data = to_bytes(graph, example, asked, metadata)
        with atomic_file(path, check=prove) as file:
            file.write(data)

    try:
        if settings.classes:
            with TemporaryDirectory() as folder:
                logits = settings._replace(classes=False)
                write(Path(folder, path.name), logits)
        write(path, settings)
    except ExportError as error:
        raise ExportError(f'{error}. {_way_out(settings)}') from error
    return verified


def _check(
    model: MultiScaleAttentionSegmentor,
    path: str | os.PathLike,
    settings: ExportSettings,
) -> ExportSettings:
    """Refuse what cannot be exported; fill in the scales."""
    if not isinstance(model, MultiScaleAttentionSegmentor):
        raise ExportError(
            'expected a MultiScaleAttentionSegmentor, got '
            f'{type(model).__name__}; models of mmseg itself are exported '
            'by mmdeploy'
        )
    test_cfg = model.test_cfg or {}
    key, scales = 'scales', settings.scales
    if scales is None:
        key, scales = 'model.test_cfg.scales', test_cfg.get('scales')
    scales = check_scales(scales, key)
    model.decode_head.check_num_scales(scales, key)
    settings = settings._replace(scales=scales)
    check_settings(settings, test_cfg)
    check_out_path(path, settings.format)
    check_available(settings, model)
    return settings


def describe(
    model: MultiScaleAttentionSegmentor, settings: ExportSettings
) -> dict[str, Any]:
    """Say in plain values what a file takes and gives, None for unknown.

    Classes and palette are those of ``model.dataset_meta``. They are left
    out, with a warning, if there are more or fewer than the model has.
    """
    info = getattr(model, 'dataset_meta', None) or {}
    classes, palette = info.get('classes'), info.get('palette')
    if classes is not None and len(classes) != model.num_classes:
        print_log(
            f'the file will not name its classes: dataset_meta names '
            f'{len(classes)}, the model has {model.num_classes}',
            logger='current',
            level=logging.WARNING,
        )
        classes = palette = None
    if palette is not None:
        # Numpy's integers are none of JSON.
        palette = [[int(value) for value in colour] for colour in palette]
    numbers = dict(mean=None, std=None)
    for name in numbers:
        value = getattr(model.data_preprocessor, name, None)
        if isinstance(value, Tensor):
            numbers[name] = value.flatten().tolist()
    return dict(
        producer=f'hmsa_mmseg {__version__}',
        torch=torch.__version__,
        opset=settings.opset if settings.format == 'onnx' else None,
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
        **numbers,
        # Of the images as they are loaded, of which mean and std are in the
        # other order then.
        flips_channels=flips_channels(model),
    )


def _way_out(settings: ExportSettings) -> str:
    """Say what else might be exported."""
    ways = []
    if settings.batch is None:
        ways.append('batch=1, as a layer may have made a constant of it')
    if settings.dynamic:
        height, width = settings.size
        ways.append(
            f'dynamic=False; size={(2 * height, 2 * width)}, as a map at the '
            'lowest scale may have been a single pixel high or wide'
        )
    if settings.format == 'onnx' and settings.opset <= MAX_TRACED_OPSET:
        ways.append(
            f'opset={MAX_TRACED_OPSET} or {MAX_TRACED_OPSET + 1}, the latter '
            'written by another exporter'
        )
    ways += [f'format={name}' for name in FORMATS if name != settings.format]
    return f'Try {"; ".join(ways)}'
