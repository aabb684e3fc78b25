"""``run.json``: of which model and which images the pictures are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .json_files import read_json, write_json

FOLDER = 'scale_maps'
RUN_FILE = 'run.json'
#: What may be another in a repeated run, which replaces its pictures.
_MAY_CHANGE = ('date', 'metrics', 'num_images')


def write_run(root: str | os.PathLike, run: Mapping) -> None:
    """Write the file.

    Args:
        root (str | os.PathLike): Folder of the run.
        run (Mapping): Of plain types. Of ``test.py``: ``mode`` ('test', or
            'val' within a training), ``config`` (name of its file),
            ``checkpoint``, ``model`` and ``dataset`` (names of classes),
            ``tta`` (likewise, or None), ``scales``, ``images`` (their
            folder), ``iter`` (of the training), ``date`` and, at the end,
            ``num_images`` and ``metrics``, ``{name: percent}``.

    Raises:
        OSError: If it cannot be written.
    """
    write_json(Path(root, FOLDER, RUN_FILE), run)


def read_run(root: str | os.PathLike) -> dict | None:
    """Read the file, None if there is none.

    Args:
        root (str | os.PathLike): Folder of the run.

    Returns:
        dict | None: What :func:`write_run` was given.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(root, FOLDER, RUN_FILE)
    return read_json(path) if path.exists() else None


def check_run(root: str | os.PathLike, run: Mapping) -> None:
    """Refuse to mix the pictures of two runs in one folder.

    Args:
        root (str | os.PathLike): Folder of the run.
        run (Mapping): What :func:`write_run` will be given.

    Raises:
        ValueError: If the folder has pictures of another run.
    """
    other = read_run(root)
    if other is None:
        return
    differing = [
        f'{key}: {other.get(key)!r}, now {run.get(key)!r}'
        for key in sorted({*other, *run} - {*_MAY_CHANGE})
        if other.get(key) != run.get(key)
    ]
    if differing:
        raise ValueError(
            f'{Path(root, FOLDER)} has the pictures of another run '
            f'({"; ".join(differing)}): give another folder, or remove it'
        )
