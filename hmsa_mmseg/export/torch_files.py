"""Files that torch writes and reads: TorchScript and torch.export.

Shape shorthand in this module:
    N: batch, H, W: input size.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .graph import ExportGraph
from .settings import ExportSettings

# The entry with the metadata.
METADATA_FILE = 'metadata.json'
# The argument of torch.export.export by which comparisons of sizes become
# checks in the graph, not limits of it.
ANY_SIZE = 'prefer_deferred_runtime_asserts_over_guards'


def variable_dims(settings: ExportSettings) -> dict[int, str]:
    """Name the axes of images that are left open: axis -> name."""
    dims = {} if settings.batch else {0: 'N'}
    return {**dims, 2: 'H', 3: 'W'} if settings.dynamic else dims


def exported_program(
    graph: ExportGraph, example: Tensor, settings: ExportSettings
) -> Any:
    """Capture a graph with ``torch.export``.

    Returns:
        torch.export.ExportedProgram: The program.
    """
    dims = variable_dims(settings)
    variable = dict.fromkeys(dims, torch.export.Dim.DYNAMIC)
    return torch.export.export(
        graph, (example,), dynamic_shapes=(variable,), **{ANY_SIZE: True}
    )


def torchscript_bytes(
    graph: ExportGraph,
    example: Tensor,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
) -> bytes:
    """Write TorchScript; arguments as of :func:`.formats.to_bytes`."""
    # What it would check by running again is verified from the file.
    traced = torch.jit.trace(graph, (example,), check_trace=False)
    file = io.BytesIO()
    extra = {METADATA_FILE: json.dumps(metadata)}
    torch.jit.save(traced, file, _extra_files=extra)
    return file.getvalue()


def torch_export_bytes(
    graph: ExportGraph,
    example: Tensor,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
) -> bytes:
    """Write a ``.pt2`` file; arguments as of :func:`.formats.to_bytes`."""
    program = exported_program(graph, example, settings)
    file = io.BytesIO()
    extra = {METADATA_FILE: json.dumps(metadata)}
    torch.export.save(program, file, extra_files=extra)
    return file.getvalue()


def load_torch(
    path: str | os.PathLike, format: str
) -> Callable[[Tensor], Tensor]:
    """Load a file of this module; arguments as of :func:`.formats.load`."""
    if format == 'torchscript':
        module = torch.jit.load(os.fspath(path), map_location='cpu')
    else:
        module = torch.export.load(os.fspath(path)).module()

    @torch.no_grad()
    def predict(image: Tensor) -> Tensor:
        return module(image)

    return predict


def read_torch_metadata(
    path: str | os.PathLike, format: str
) -> dict[str, Any]:
    """Read metadata; arguments as of :func:`.formats.read_metadata`."""
    files = {METADATA_FILE: ''}
    if format == 'torchscript':
        torch.jit.load(os.fspath(path), _extra_files=files)
    else:
        torch.export.load(os.fspath(path), extra_files=files)
    return json.loads(files[METADATA_FILE])
