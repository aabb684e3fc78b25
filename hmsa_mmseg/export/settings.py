"""What an export is asked for, and what is refused before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..models.scale_fusion import Size, exact_ratio
from ..utils.checks import is_integer

FORMATS = ('onnx', 'torch-export')
RAW_DTYPES = (None, 'uint8', 'float32')
# Bilinear resizing as PyTorch's, with either align_corners, came to ONNX with
# opset 11 (operator Resize, coordinate_transformation_mode).
MIN_OPSET = 11


class ExportError(RuntimeError):
    """A model cannot be exported as asked for; says what could be."""


class ExportSettings(NamedTuple):
    """What to export.

    Attributes:
        format (str): ``onnx`` or ``torch-export``.
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
    """Raise an ExportError if a value makes no sense or cannot be exported.

    The scales are those that the model will run at.
    """
    check_format(settings.format)
    if settings.raw not in RAW_DTYPES:
        raise ExportError(
            f'raw must be one of {list(RAW_DTYPES)}, got {settings.raw!r}'
        )
    size = settings.size
    is_pair = isinstance(size, (list, tuple)) and len(size) == 2
    if not is_pair or not all(is_integer(side, 1) for side in size):
        raise ExportError(
            'size must be (height, width), two integers of 1 or more; got '
            f'{size!r}'
        )
    if settings.batch is not None and not is_integer(settings.batch, 1):
        raise ExportError(
            'batch must be an integer of 1 or more, or None for any; got '
            f'{settings.batch!r}'
        )
    if settings.format == 'onnx' and not is_integer(settings.opset, MIN_OPSET):
        raise ExportError(
            f'opset must be an integer of {MIN_OPSET} or more, for example '
            f'{ExportSettings._field_defaults["opset"]}, as bilinear '
            f'resizing like PyTorch needs {MIN_OPSET}; got {settings.opset!r}'
        )
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


def check_format(format: str) -> None:
    """Raise an ExportError if a format is none of ``FORMATS``."""
    if format == 'torchscript':
        raise ExportError(
            "format='torchscript' is no longer written, as PyTorch has "
            "deprecated it; use 'onnx', or 'torch-export' for a file that "
            'PyTorch runs'
        )
    if format not in FORMATS:
        raise ExportError(
            f'format must be one of {list(FORMATS)}, got {format!r}'
        )


def check_out_path(
    path: str | os.PathLike,
    format: str,
    inputs: Mapping[str, str | os.PathLike] | None = None,
) -> None:
    """Raise an ExportError if a path cannot become the exported file.

    ``inputs`` are paths of files that must stay, by what they are. Nothing is
    written.
    """
    check_format(format)
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ExportError(
            f'{path} is a directory or a device; expected the path of a file'
        )
    for name, other in (inputs or {}).items():
        if path.exists() and Path(other).exists() and path.samefile(other):
            raise ExportError(
                f'{path} is the {name}, which would be lost; expected the '
                'path of another file'
            )
    if format == 'torch-export' and path.suffix != '.pt2':
        raise ExportError(
            f"{path}: torch.export.load takes files '*.pt2' only; expected "
            f'for example {path.with_suffix(".pt2")}'
        )
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(
            f'{path} cannot be written: {folder} is no directory with the '
            'permission to write'
        )
