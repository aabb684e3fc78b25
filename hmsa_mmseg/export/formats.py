"""Files of the two formats, ONNX and torch.export: writing and reading.

Shape shorthand in this module:
    N: batch, C: channels of an image, K: classes, H, W: input size.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from hmsa_mmseg.compat import torch_has, torch_needed

from .settings import ExportError, ExportSettings, check_format

Predictor = Callable[[Tensor], Tensor]

INPUT_NAME = 'image'
# The newest that PyTorch's exporter by tracing writes; for newer ones there
# is its exporter by way of torch.export, which takes ten times as long.
MAX_TRACED_OPSET = 20
# A message of protobuf, which an ONNX file is, holds less.
MAX_ONNX_BYTES = 2**31
# The entry of a .pt2 file with the metadata.
METADATA_FILE = 'metadata.json'


def check_available(settings: ExportSettings, model: nn.Module) -> None:
    """Raise an ExportError if packages or the format do not suffice."""
    asked = f'format={settings.format!r}, opset={settings.opset}'
    is_onnx = settings.format == 'onnx'
    is_traced = is_onnx and settings.opset <= MAX_TRACED_OPSET
    needed = ['onnx', 'onnxruntime', 'onnxscript'] if is_onnx else []
    for package in needed[:2] if is_traced else needed:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f'{asked} needs {package}; install with: pip install '
                '"hmsa_mmseg[export]"'
            ) from error
    if not is_traced and not torch_has('export_of_any_size'):
        raise ExportError(
            f'{asked} {torch_needed("export_of_any_size")}, whose '
            'torch.export cannot keep sizes variable; '
            f"use format='onnx' with opset={MAX_TRACED_OPSET} or less"
        )
    # As float32; auxiliary heads are not exported.
    size = 4 * sum(
        x.numel()
        for name, x in model.state_dict().items()
        if not name.startswith('auxiliary_head.')
    )
    if is_onnx and size >= MAX_ONNX_BYTES:
        raise ExportError(
            f"format='onnx': the weights of the model take {size} bytes; "
            f'expected less than {MAX_ONNX_BYTES}, which is the most that an '
            "ONNX file holds. Use format='torch-export'"
        )


def to_bytes(
    graph: nn.Module,
    example: Tensor,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
) -> bytes:
    """Write a graph, from images to logits or classes, in a format.

    An ExportError is raised if the model holds what the format has not.
    """
    what = f'format={settings.format!r}: the exporter refused the model'
    with _told(what), torch.no_grad():
        if settings.format == 'onnx':
            return _onnx_bytes(graph, example, settings, metadata)
        program = _exported_program(graph, example, settings)
        file = io.BytesIO()
        extra = {METADATA_FILE: json.dumps(metadata)}
        torch.export.save(program, file, extra_files=extra)
        return file.getvalue()


def _onnx_bytes(
    graph: nn.Module,
    example: Tensor,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
) -> bytes:
    import onnx

    output_name = 'classes' if settings.classes else 'seg_logits'
    kwargs = dict(
        input_names=[INPUT_NAME],
        output_names=[output_name],
        opset_version=settings.opset,
    )
    if settings.opset > MAX_TRACED_OPSET:
        program = _exported_program(graph, example, settings)
        kwargs.update(dynamo=True, verbose=False)
        model = torch.onnx.export(program, **kwargs).model_proto
    else:
        dims = _variable_dims(settings)
        out_dims = {
            axis - (axis > 0 and settings.classes): dim
            for axis, dim in dims.items()
        }
        kwargs['dynamic_axes'] = {INPUT_NAME: dims, output_name: out_dims}
        if torch_has('onnx_by_choice'):
            kwargs['dynamo'] = False
        file = io.BytesIO()
        torch.onnx.export(graph, (example,), file, **kwargs)
        model = onnx.load_from_string(file.getvalue())
    opsets = [
        entry.version
        for entry in model.opset_import
        if entry.domain in ('', 'ai.onnx')
    ]
    # The newer exporter falls back to one that it knows, and says nothing.
    if opsets != [settings.opset]:
        raise ExportError(
            f'opset={settings.opset}: the exporter of torch '
            f'{torch.__version__} wrote opset {opsets} instead; expected one '
            f'that it knows, such as {MAX_TRACED_OPSET + 1} or less'
        )
    onnx.helper.set_model_props(
        model, {key: json.dumps(value) for key, value in metadata.items()}
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _exported_program(
    graph: nn.Module, example: Tensor, settings: ExportSettings
) -> Any:
    """Capture a graph as a ``torch.export.ExportedProgram``."""
    dims = dict.fromkeys(_variable_dims(settings), torch.export.Dim.DYNAMIC)
    return torch.export.export(
        graph,
        (example,),
        dynamic_shapes=(dims,),
        # Comparisons of sizes become checks in the graph, not limits of it.
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def _variable_dims(settings: ExportSettings) -> dict[int, str]:
    """Name the axes of images that are left open: axis -> name."""
    dims = {} if settings.batch else {0: 'N'}
    return {**dims, 2: 'H', 3: 'W'} if settings.dynamic else dims


def load(path: str | os.PathLike, format: str) -> Predictor:
    """Load a file that :func:`.export_model` wrote, on the CPU.

    Returns:
        Callable: From a batch of images, shape (N, C, H, W), float32 or
        uint8 as the file takes them, to logits (N, K, H, W), float32, or
        classes (N, H, W).

    Raises:
        ExportError: If the format is unknown, or its runtime refuses the
            file.
        OSError: If the file cannot be read.
    """
    with _reading(path, format) as file:
        if format == 'torch-export':
            module = torch.export.load(file).module()
            return torch.no_grad()(lambda image: module(image))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=['CPUExecutionProvider']
        )

    def predict(image: Tensor) -> Tensor:
        (output,) = session.run(None, {INPUT_NAME: image.numpy()})
        return torch.from_numpy(output)

    return predict


def read_metadata(path: str | os.PathLike, format: str) -> dict[str, Any]:
    """Read what an exported file says about itself.

    That is scales, sizes, classes and so on, None for what is not known.

    Raises:
        ExportError: If the format is unknown, or the file is damaged or was
            not written by :func:`.export_model`.
        OSError: If the file cannot be read.
    """
    with _reading(path, format) as file:
        try:
            if format == 'onnx':
                import onnx

                entries = onnx.load(file).metadata_props
                found = {e.key: json.loads(e.value) for e in entries}
            else:
                files = {METADATA_FILE: ''}
                torch.export.load(file, extra_files=files)
                found = json.loads(files[METADATA_FILE])
        except json.JSONDecodeError:
            found = {}
    if 'producer' not in found:
        raise ExportError(
            f'{path} holds no metadata of hmsa_mmseg; expected a file that '
            'its export wrote'
        )
    return found


@contextmanager
def _reading(path: str | os.PathLike, format: str) -> Iterator[BinaryIO]:
    """Open a file; name it in errors of the runtimes."""
    check_format(format)
    reader = 'onnxruntime' if format == 'onnx' else 'torch'
    what = f'{path} cannot be loaded by {reader} as format={format!r}'
    with open(path, 'rb') as file, _told(what):
        yield file


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Begin errors of exporters and runtimes with what has failed.

    What they warn about is left out, as the file itself is verified, and the
    whole graph, which they print if they fail.
    """
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    except (ExportError, MemoryError):
        raise
    # They are of many types, some of torch's own.
    except Exception as error:
        # Of some errors the first line says nothing, of some the others.
        text = ' '.join(str(error).split())[:600]
        raise ExportError(f'{what}: {type(error).__name__}: {text}') from error
