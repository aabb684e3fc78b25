"""ONNX files.

Shape shorthand in this module:
    N: batch, H, W: input size.
"""

from __future__ import annotations

import inspect
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .graph import ExportGraph
from .settings import ExportError, ExportSettings
from .torch_files import exported_program, variable_dims

INPUT_NAME = 'image'
# The newest that PyTorch's exporter by tracing writes; for newer ones there
# is its exporter by way of torch.export, which takes ten times as long.
MAX_TRACED_OPSET = 20
# A message of protobuf, which an ONNX file is, holds less.
MAX_BYTES = 2**31


def check_weights_fit(model: nn.Module) -> None:
    """Refuse weights that an ONNX file cannot hold, before any work.

    Args:
        model (nn.Module): Auxiliary heads are not counted: they are not
            exported.

    Raises:
        ExportError: If parameters and buffers, floats as float32, take
            ``MAX_BYTES`` or more.
    """
    size = sum(
        x.numel() * (4 if x.is_floating_point() else x.element_size())
        for tensors in (model.named_parameters(), model.named_buffers())
        for name, x in tensors
        if not name.startswith('auxiliary_head.')
    )
    if size >= MAX_BYTES:
        raise ExportError(
            f"format='onnx': the weights of the model take {size} bytes; "
            f'expected less than {MAX_BYTES}, which is the most that an ONNX '
            "file holds. Use format='torchscript'"
        )


def onnx_bytes(
    graph: ExportGraph,
    example: Tensor,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
) -> bytes:
    """Write ONNX; arguments as of :func:`.formats.to_bytes`."""
    import onnx

    output_name = 'classes' if settings.classes else 'seg_logits'
    names = dict(input_names=[INPUT_NAME], output_names=[output_name])
    if settings.opset > MAX_TRACED_OPSET:
        program = exported_program(graph, example, settings)
        model = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=settings.opset,
            verbose=False,
            **names,
        ).model_proto
    else:
        dims = variable_dims(settings)
        out_dims = {
            axis - (axis > 0 and settings.classes): dim
            for axis, dim in dims.items()
        }
        if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
            names['dynamo'] = False
        file = io.BytesIO()
        torch.onnx.export(
            graph,
            (example,),
            file,
            opset_version=settings.opset,
            dynamic_axes={
                INPUT_NAME: dims,
                output_name: out_dims,
            },
            **names,
        )
        model = onnx.load_from_string(file.getvalue())
    _check_opset(model, settings.opset)
    onnx.helper.set_model_props(
        model, {key: json.dumps(value) for key, value in metadata.items()}
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _check_opset(model: Any, expected: int) -> None:
    """Refuse another opset, which the newer exporter falls back to."""
    found = [
        entry.version
        for entry in model.opset_import
        if entry.domain in ('', 'ai.onnx')
    ]
    if found != [expected]:
        raise ExportError(
            f'opset={expected}: the exporter of torch {torch.__version__} '
            f'wrote opset {", ".join(map(str, found))} instead; expected one '
            f'that it knows, such as {MAX_TRACED_OPSET + 1} or less'
        )


def load_onnx(path: str | os.PathLike) -> Callable[[Tensor], Tensor]:
    """Load a file into onnxruntime, on the CPU."""
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


def read_onnx_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Read what a file says about its model."""
    import onnx

    properties = onnx.load(os.fspath(path)).metadata_props
    return {entry.key: json.loads(entry.value) for entry in properties}
