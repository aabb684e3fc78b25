"""What an export is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..models.scale_fusion import Size, exact_ratio
from ..models.segmentors.settings import is_positive_int

FORMATS = ('onnx', 'torchscript', 'torch-export')
RAW_DTYPES = (None, 'uint8', 'float32')
# Bilinear resizing as PyTorch's, with either align_corners, came to ONNX with
# opset 11 (operator Resize, coordinate_transformation_mode).
MIN_OPSET = 11


class ExportError(RuntimeError):
    """A model cannot be exported as asked for; says what could be."""


class ExportSettings(NamedTuple):
    """What to export.

    Attributes:
        format (str): ``onnx``, ``torchscript`` or ``torch-export``.
        size (tuple[int]): (H, W) of the input.
        dynamic (bool): Whether other sizes are to work too.
        batch (int | None): The number of images, None for any.
        scales (tuple[float] | None): Relative image sizes, None for those
            of ``test_cfg``.
        raw (str | None): ``uint8`` or ``float32`` for images as they are
            loaded, which the graph normalises; None for normalised ones.
        classes (bool): Whether to give classes instead of logits.
        fold_bn (bool): Whether batch normalisation becomes part of the
            convolutions.
        opset (int): Version of the ONNX operators.
    """

    format: str
    size: Size
    dynamic: bool = False
    batch: int | None = None
    scales: tuple[float, ...] | None = None
    raw: str | None = None
    classes: bool = False
    fold_bn: bool = False
    opset: int = 17


def check_settings(settings: ExportSettings, test_cfg: Mapping | None) -> None:
    """Refuse what cannot be exported, before any work is done.

    Args:
        settings (ExportSettings): What is asked for; its scales are those
            that the model will run at.
        test_cfg (Mapping, optional): Of the model.

    Raises:
        ExportError: If a value makes no sense or cannot be exported.
    """
    check_choice('format', settings.format, FORMATS)
    check_choice('raw', settings.raw, RAW_DTYPES)
    is_pair = isinstance(settings.size, (list, tuple))
    is_pair = is_pair and len(settings.size) == 2
    if not is_pair or not all(map(is_positive_int, settings.size)):
        raise ExportError(
            'size must be (height, width), two integers of 1 or more; got '
            f'{settings.size!r}'
        )
    if settings.batch is not None and not is_positive_int(settings.batch):
        raise ExportError(
            'batch must be an integer of 1 or more, or None for any; got '
            f'{settings.batch!r}'
        )
    if settings.format == 'onnx':
        _check_opset(settings.opset)
    inexact = [s for s in settings.scales if exact_ratio(s) is None]
    if settings.dynamic and inexact:
        raise ExportError(
            f'dynamic=True does not go with scales={settings.scales}: the '
            f'sizes of images at {inexact} follow from rounding in float64, '
            'which the formats do not have; expected fractions of a power of '
            'two, such as 0.625 (5/8) or 0.75 (3/4), or dynamic=False'
        )
    if (test_cfg or {}).get('mode') == 'slide':
        raise ExportError(
            "model.test_cfg.mode='slide' cannot be exported: the number of "
            'windows depends on the image; set it to whole and export a '
            'graph of one window, its size that of model.test_cfg.crop_size='
            f'{test_cfg.get("crop_size")}, to be slid by the program around '
            'it'
        )


def check_choice(name: str, value: Any, expected: tuple) -> None:
    """Refuse a value that is none of those expected.

    Args:
        name (str): Of the setting, for the error message.
        value (Any): The value.
        expected (tuple): What it may be.

    Raises:
        ExportError: If it is something else.
    """
    if value not in expected:
        raise ExportError(
            f'{name} must be one of {list(expected)}, got {value!r}'
        )


def _check_opset(opset: Any) -> None:
    default = ExportSettings._field_defaults['opset']
    if not is_positive_int(opset):
        raise ExportError(
            f'opset must be an integer of {MIN_OPSET} or more, for example '
            f'{default}; got {opset!r}'
        )
    if opset < MIN_OPSET:
        raise ExportError(
            f'opset={opset} is too low: bilinear resizing as PyTorch '
            f'computes it needs {MIN_OPSET} or more, for example {default}'
        )
