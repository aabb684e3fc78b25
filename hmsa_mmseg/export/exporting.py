"""Exporting a model: graph, file, proof."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ..models import MultiScaleAttentionSegmentor
from ..models.inference.preparation import input_channels
from ..models.scale_fusion import check_scales
from ..utils import atomic_file
from .formats import check_available, load, to_bytes
from .graph import ExportGraph, copy_for_inference
from .metadata import describe
from .onnx_files import check_weights_fit
from .out_path import check_out_path
from .reference import Reference, example_images, predict_expected
from .settings import ExportError, ExportSettings, check_settings
from .verification import Verification, verify, way_out


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
    channels = input_channels(model)
    reference = Reference(model, settings.raw).eval()
    expected = predict_expected(reference, settings, channels)
    example = example_images(settings, channels)
    path = Path(path)
    verified = []

    def prove(written: Path, asked: ExportSettings) -> None:
        try:
            predict = load(written, asked.format)
        except ExportError as error:
            raise ExportError(
                f'the exported file cannot be loaded again: {error}. '
                f'{way_out(asked)}'
            ) from error
        threshold = model.decode_head.threshold
        for result in verify(predict, expected, threshold, asked):
            verified.append(result)
            if report is not None:
                report(result)

    if settings.classes:
        asked = settings._replace(classes=False)
        data = to_bytes(ExportGraph(model, asked), example, asked, metadata)
        with TemporaryDirectory() as folder:
            file = Path(folder, path.name)
            file.write_bytes(data)
            prove(file, asked)
    data = to_bytes(graph, example, settings, metadata)
    # torch.export.load wants a name that ends in .pt2.
    part = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    with atomic_file(path, lambda file: prove(file, settings), part) as file:
        file.write(data)
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
    model.decode_head.check_scales(scales, key)
    settings = settings._replace(scales=scales)
    check_settings(settings, test_cfg)
    check_out_path(path, settings.format)
    check_available(settings)
    if settings.format == 'onnx':
        check_weights_fit(model)
    return settings
