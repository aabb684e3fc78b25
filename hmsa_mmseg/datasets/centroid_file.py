"""The file that holds centroids: written whole, checked when read."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from pathlib import Path

import numpy as np

from hmsa_mmseg.utils import atomic_file

FORMAT = 'hmsa_mmseg centroids 1'


def write_rows(path: Path, rows: np.ndarray, temp_dir: Path) -> None:
    """Write (R, 4) int32 centroids; the file is either whole or absent.

    ``temp_dir`` is a folder on the same file system, made if absent.
    """
    temp_dir.mkdir(parents=True, exist_ok=True)
    header = dict(format=FORMAT, name=path.name, sha256=_sha256(rows))
    # Not the process id: another machine may write to the same folder.
    part = temp_dir / f'.{uuid.uuid4().hex}.tmp'
    with atomic_file(path, part=part) as file:
        header = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(file, header=header, rows=rows)


def read_rows(path: Path) -> np.ndarray:
    """Read back what :func:`write_rows` wrote, and check it.

    Raises:
        OSError: If it cannot be opened or read.
        ValueError: If it is damaged, or was written under another name: for
            other data or by another version.
    """
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            header = json.loads(file['header'].tobytes())
            rows = file['rows']
        format_, name, sha256 = (
            header[key] for key in ('format', 'name', 'sha256')
        )
    # What numpy and zipfile raise for damaged files has no common type.
    except Exception as error:
        raise ValueError(f'damaged: {error}') from error
    if format_ != FORMAT:
        raise ValueError(f'its format is {format_!r}; expected {FORMAT!r}')
    if name != path.name:
        raise ValueError(f'it was written as {name!r}, for other labels')
    if sha256 != _sha256(rows) or rows.shape[1:] != (4,):
        raise ValueError('damaged: its content does not match its checksum')
    return rows


def _sha256(rows: np.ndarray) -> str:
    about = f'{rows.dtype.str}{rows.shape}'.encode()
    return hashlib.sha256(about + rows.tobytes()).hexdigest()
