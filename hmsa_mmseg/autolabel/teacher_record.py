"""What labels say of the training of the teacher that made them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.autolabel_files import META_FILE
from hmsa_mmseg.utils import atomic_file

#: In the folder of all labels, beside their meta file.
SEEN_FILE = 'teacher_images.txt'


@dataclass
class Training:
    """What a teacher was trained on, as far as it is known.

    Attributes:
        sets (list[dict]): Its data sets, in plain types: ``type``,
            ``source`` ('checkpoint', 'config' or 'declared'), arguments such
            as ``data_root``, ``data_prefix``, ``cv`` and ``cities``, and
            ``images``, how many there are, None if they cannot be listed
            here. Data of an earlier teacher, whose labels this one has learnt
            from, have ``teacher_of``, the folder of those labels. A
            checkpoint that training started from is an entry of type
            'load_from' with its ``path``.
        images (list[tuple[int, str]]): Size in bytes and relative name of
            each image that could be listed.
        notes (list[str]): Where this is known from, and what is not known.
    """

    sets: list[dict] = field(default_factory=list)
    images: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """str: All notes; empty if there is nothing to say."""
        return '; '.join(self.notes)

    def add(self, other: Training) -> None:
        """Count what another has as well."""
        self.sets += other.sets
        self.images += other.images
        self.notes += other.notes


def labels_root(leaf: dict) -> Path | None:
    """Find the folder of all labels of a data set: the one with a meta file.

    None if no teacher made its labels, or they are not here.
    """
    # By name alone: nothing foreign is imported or built.
    name = str(leaf.get('type')).rsplit('.', 1)[-1]
    default = getattr(DATASETS.module_dict.get(name), 'DEFAULT_PREFIX', None)
    prefix = leaf.get('data_prefix') or default
    labels = prefix.get('seg_map_path') if isinstance(prefix, dict) else None
    if not isinstance(labels, str):
        return None
    folder = Path(str(leaf.get('data_root') or ''), labels)
    # As AutoLabelDataset: labels of a split are one folder below.
    for candidate in (folder, folder.parent):
        if os.path.isfile(candidate / META_FILE):
            return candidate
    return None


def read_teacher(folder: str | Path) -> Training:
    """Read what the teacher that made a folder of labels was trained on.

    It has a single note if not all of it is known, also in the place of any
    error.
    """
    folder = Path(folder)
    found = Training()
    problems = []
    try:
        meta = json.loads((folder / META_FILE).read_text(encoding='utf-8'))
        found.sets = [dict(one) for one in meta['trained_on'] or []]
        if not found.sets:
            problems.append('trained_on is not known')
        own = (meta.get('teacher') or {}).get('checkpoint_sha256')
        # What those were trained on is not in the folder any more.
        mixed = [one.get('teacher') or {} for one in meta.get('mixed') or ()]
        others = [
            str(teacher.get('checkpoint'))
            for teacher in mixed
            if teacher.get('checkpoint_sha256') != own
        ]
        if others:
            problems.append(
                f'labels of other teachers are mixed in: {", ".join(others)}'
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problems.append(f'{META_FILE}: {type(error).__name__}: {error}')
    try:
        found.images = read_seen(folder / SEEN_FILE)
    except FileNotFoundError:
        problems.append(f'there is no {SEEN_FILE}')
    except (OSError, ValueError) as error:
        problems.append(str(error))
    unlisted = [one for one in found.sets if one.get('images', 0) is None]
    if unlisted:
        names = ', '.join(str(one.get('type')) for one in unlisted)
        problems.append(f'the images of {names} were not listed')
    if problems:
        found.notes.append(
            f'not all that the teacher of {folder} was trained on is known: '
            + '; '.join(problems)
        )
    return found


def write_seen(
    path: str | os.PathLike, images: Iterable[tuple[int, str]]
) -> None:
    """Write a list of images, one a line: bytes, tab, relative name."""
    with atomic_file(path) as file:
        for size, name in images:
            # Never so in a data set; it must not look like two images.
            name = name.replace('\n', ' ').replace('\r', ' ')
            file.write(f'{size}\t{name}\n'.encode())


def read_seen(path: str | os.PathLike) -> list[tuple[int, str]]:
    """Read a list of images; a ValueError names a line that is none."""
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
        paths (Iterable[str | os.PathLike]): Of files, which must be there.
        seen (Iterable[tuple[int, str]]): From :func:`read_seen`.
    """
    known = {(size, name.rsplit('/', 1)[-1]) for size, name in seen}
    return sum(
        (os.path.getsize(path), os.path.basename(path)) in known
        for path in paths
    )
