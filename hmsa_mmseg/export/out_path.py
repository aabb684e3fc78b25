"""The path that an exported file is to take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .settings import ExportError


def check_out_path(
    path: str | os.PathLike,
    format: str,
    inputs: Mapping[str, str | os.PathLike] | None = None,
) -> None:
    """Refuse a path that no file could be written to, before any work.

    Nothing is made or written.

    Args:
        path (str | os.PathLike): Of the file.
        format (str): Its format.
        inputs (Mapping, optional): Paths of files that must stay, by what
            they are.

    Raises:
        ExportError: If the path cannot become the file.
    """
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
