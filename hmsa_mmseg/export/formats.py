"""Writing and reading the formats: ONNX, TorchScript, torch.export."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from .graph import ExportGraph
from .onnx_files import (
    MAX_TRACED_OPSET,
    load_onnx,
    onnx_bytes,
    read_onnx_metadata,
)
from .settings import FORMATS, ExportError, ExportSettings, check_choice
from .torch_files import (
    ANY_SIZE,
    load_torch,
    read_torch_metadata,
    torch_export_bytes,
    torchscript_bytes,
)

Predictor = Callable[[Tensor], Tensor]

_WRITERS = {
    'onnx': onnx_bytes,
    'torchscript': torchscript_bytes,
    'torch-export': torch_export_bytes,
}


def check_available(settings: ExportSettings) -> None:
    """Refuse a format for which the installed packages do not suffice.

    Args:
        settings (ExportSettings): What is asked for.

    Raises:
        ExportError: If one is missing or too old.
    """
    is_onnx = settings.format == 'onnx'
    is_new = is_onnx and settings.opset > MAX_TRACED_OPSET
    needed = ('onnx', 'onnxruntime') if is_onnx else ()
    for package in (*needed, 'onnxscript') if is_new else needed:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f'format={settings.format!r}, opset={settings.opset} needs '
                f'{package}; install with: pip install "hmsa_mmseg[export]"'
            ) from error
    if settings.format != 'torch-export' and not is_new:
        return
    export = getattr(getattr(torch, 'export', None), 'export', None)
    if export is None or ANY_SIZE not in inspect.signature(export).parameters:
        raise ExportError(
            f'format={settings.format!r}, opset={settings.opset} needs a '
            f'newer torch than {torch.__version__}, whose torch.export '
            f'cannot keep sizes variable (argument {ANY_SIZE}); use '
            f"'torchscript', or 'onnx' with opset={MAX_TRACED_OPSET} or less"
        )


def to_bytes(
    graph: ExportGraph,
    example: Tensor,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
) -> bytes:
    """Write a graph in the format of the settings.

    Args:
        graph (ExportGraph): The graph.
        example (Tensor): A batch of two images of ``settings.size``, or of
            ``settings.batch``.
        settings (ExportSettings): What is asked for.
        metadata (Mapping): Plain values, to go into the file.

    Returns:
        bytes: The file.

    Raises:
        ExportError: If the model holds what the format has not.
    """
    write = _WRITERS[settings.format]
    try:
        with _quiet(), torch.no_grad():
            return write(graph, example, settings, metadata)
    except (ExportError, MemoryError):
        raise
    # Exporters raise errors of many types, some of torch's own.
    except Exception as error:
        raise ExportError(_explain(error, settings)) from error


def load(path: str | os.PathLike, format: str) -> Predictor:
    """Load an exported file on the CPU.

    Args:
        path (str | os.PathLike): Of a file that :func:`.export_model` wrote.
            Like any program, a TorchScript file should be one that is
            trusted.
        format (str): Its format.

    Returns:
        Callable: From a batch of images, shape (N, C, H, W), float32 or
        uint8 as the file takes them, to logits (N, K, H, W), float32, or
        classes (N, H, W).

    Raises:
        ExportError: If the format is unknown, or its runtime refuses the
            file.
        OSError: If the file cannot be read.
    """
    with _reading(path, format):
        if format == 'onnx':
            return load_onnx(path)
        return load_torch(path, format)


def read_metadata(path: str | os.PathLike, format: str) -> dict[str, Any]:
    """Read what an exported file says about itself.

    Args:
        path (str | os.PathLike): The file.
        format (str): Its format.

    Returns:
        dict: The values of :func:`.metadata.describe`.

    Raises:
        ExportError: If the format is unknown, or the file is damaged or was
            not written by :func:`.export_model`.
        OSError: If the file cannot be read.
    """
    with _reading(path, format):
        try:
            if format == 'onnx':
                found = read_onnx_metadata(path)
            else:
                found = read_torch_metadata(path, format)
        except json.JSONDecodeError:
            found = {}
    if 'producer' not in found:
        raise ExportError(
            f'{path} holds no metadata of hmsa_mmseg; expected a file that '
            'its export wrote'
        )
    return found


@contextmanager
def _reading(path: str | os.PathLike, format: str) -> Iterator[None]:
    """Name the file in errors of the runtimes, which are of many types."""
    check_choice('format', format, FORMATS)
    with open(path, 'rb'):
        pass
    try:
        with _quiet():
            yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reader = 'onnxruntime' if format == 'onnx' else 'torch'
        raise ExportError(
            f'{path} cannot be loaded by {reader} as format={format!r}: '
            f'{type(error).__name__}: {" ".join(str(error).split())[:600]}'
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what exporters warn about: the file itself is verified.

    And the whole graph, which they print if they fail.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


def _explain(error: Exception, settings: ExportSettings) -> str:
    """Say what an exporter's error means and what to do about it."""
    text = str(error)
    # Of some errors the first line says nothing, of some the others.
    reason = ' '.join(text.split())[:600]
    message = (
        f'format={settings.format!r}: the exporter refused the model '
        f'({type(error).__name__}: {reason})'
    )
    if 'specialized' in text or 'inferred' in text:
        return (
            f'{message}. A layer makes a constant of a size that was to be '
            f'variable. Export with batch={settings.batch or 1}'
            f'{" and dynamic=False" if settings.dynamic else ""}, or, where '
            'a map at the lowest scale is a single pixel high or wide, with '
            f'a size larger than {tuple(settings.size)}'
        )
    if settings.format == 'onnx':
        return (
            f'{message}. ONNX opset {settings.opset} has no equivalent of an '
            'operator of this model, or not for variable sizes: try a higher '
            f'opset ({MAX_TRACED_OPSET}; from {MAX_TRACED_OPSET + 1} another '
            "exporter is used), dynamic=False, or format='torchscript'"
        )
    other = 'torch-export' if settings.format == 'torchscript' else 'onnx'
    return f'{message}. Try format={other!r}'
