"""Lists of images that a teacher was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hmsa_mmseg.utils import atomic_file

#: In the folder of all labels, beside their meta file.
SEEN_FILE = 'teacher_images.txt'


def write_seen(
    path: str | os.PathLike, images: Iterable[tuple[int, str]]
) -> None:
    """Write a list of images, one a line: bytes, tab, relative name.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_file(path) as file:
        for size, name in images:
            file.write(f'{size}\t{_one_line(name)}\n'.encode())


def _one_line(name: str) -> str:
    # Never so in a data set; it must not look like two images.
    return name.replace('\n', ' ').replace('\r', ' ')


def read_seen(path: str | os.PathLike) -> list[tuple[int, str]]:
    """Read a list of images.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a line is no size and name.
    """
    images = []
    lines = Path(path).read_text(encoding='utf-8').split('\n')
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        size, tab, name = line.partition('\t')
        if not (tab and name and size.isdecimal()):
            raise ValueError(
                f'{path}, line {number}: {line[:80]!r}; expected a size in '
                'bytes, a tab and the name of an image'
            )
        images.append((int(size), name))
    return images


def count_seen(
    paths: Iterable[str | os.PathLike], seen: Iterable[tuple[int, str]]
) -> int:
    """Count the images that are in a list of images.

    An image is known by its base name and its size in bytes. Folders are
    moved, linked and named anew, so paths do not tell; in many data sets
    base names alone come again in each folder (``0001.png``), of other sizes;
    contents would have to be read, gigabytes of them. Copies that were
    encoded anew are not found.

    Args:
        paths (Iterable[str | os.PathLike]): Of files.
        seen (Iterable[tuple[int, str]]): From :func:`read_seen`.

    Returns:
        int: How many of the paths are in the list.

    Raises:
        OSError: If a file is not there.
    """
    known = {(size, name.rsplit('/', 1)[-1]) for size, name in seen}
    return sum(
        (os.path.getsize(path), os.path.basename(path)) in known
        for path in paths
    )
