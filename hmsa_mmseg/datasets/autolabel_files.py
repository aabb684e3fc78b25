"""The files of auto-labels, below one folder: names, and what they say.

``<name>.png`` holds the label of an image and ``<name>_prob.png`` its
confidence. ``<name>`` is the path of the image relative to the folder of all
images, with ``/``, without the suffix; the authors' own program writes base
names alone, into one flat folder (NVIDIA/semantic-segmentation,
utils/misc.py: ``ImageDumper``), their published archive has folders.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

#: What :func:`label_file` takes: sub-folders kept, or the base name alone.
LAYOUTS = ('folders', 'authors-flat')
LABEL_SUFFIX = '.png'
PROB_SUFFIX = '_prob.png'
#: What the labels were made with, see :func:`read_meta`.
META_FILE = 'autolabel_meta.json'
#: One line for each labelled image, and for each that could not be.
MANIFEST_FILE = 'manifest.jsonl'
FAILURES_FILE = 'failures.jsonl'
#: One line for each image that is to be labelled.
IMAGES_FILE = 'images.jsonl'
REPORT_JSON = 'report.json'
REPORT_HTML = 'report.html'
#: Labels of images that have true ones, to check the teacher with.
CHECK_FOLDER = 'check'
#: Of the format of :data:`META_FILE`.
VERSION = 1


def label_file(name: str, layout: str = 'folders') -> str:
    """Path of the label of ``<name>``, relative to the folder of labels."""
    return _based(name, layout) + LABEL_SUFFIX


def prob_file(name: str, layout: str = 'folders') -> str:
    """Path of an image's confidence, likewise."""
    return _based(name, layout) + PROB_SUFFIX


def prob_of_label(path: str) -> str:
    """Path of the confidence that belongs to a label's path."""
    return path[: -len(LABEL_SUFFIX)] + PROB_SUFFIX


def round_folder(out: str | Path, number: int | None) -> Path:
    """Folder of the labels of a round; without a number ``out`` itself."""
    out = Path(out)
    return out if number is None else out / f'round_{number}'


def shard_file(name: str, index: int, count: int) -> str:
    """Name of the part of a file that one of several processes writes.

    ``manifest.jsonl`` of process 1 of 3, counted from 0, is
    ``manifest.1-of-3.jsonl``.
    """
    stem, suffix = name.rsplit('.', 1)
    return f'{stem}.{index}-of-{count}.{suffix}'


def read_meta(folder: str | Path) -> dict[str, Any]:
    """Read what a folder of auto-labels was made with.

    Returns:
        dict[str, Any]: With ``teacher``, ``settings``, ``trained_on``,
        ``round``, ``previous``, ``code_version`` and ``images``; in a folder
        of several identities the others are in ``mixed``.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is damaged, or of a later version.
    """
    path = Path(folder) / META_FILE
    content = path.read_bytes()
    try:
        meta = json.loads(content.decode())
        version = meta['version']
        if not all(
            isinstance(meta[key], dict) for key in ('teacher', 'settings')
        ):
            raise TypeError('teacher and settings are no objects')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is damaged or of another program ({error!r}); expected '
            'what hmsa label writes'
        ) from error
    if version != VERSION:
        raise ValueError(
            f'{path}: version={version!r}; expected {VERSION}: labels of '
            'another version of this package'
        )
    return meta


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line, whose last line may be torn.

    Lines that are torn or no object with a ``name`` are left out. Empty if
    there is no file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = []
    for text in content.split(b'\n'):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get('name'), str):
            lines.append(line)
    return lines


def _based(name: str, layout: str) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f'layout={layout!r}; expected one of {LAYOUTS}')
    return name if layout == 'folders' else PurePosixPath(name).name
