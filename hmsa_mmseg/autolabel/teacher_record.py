"""What labels say of the training of the teacher that made them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.autolabel_files import META_FILE

from .seen_images import SEEN_FILE, read_seen


class TeacherRecord(NamedTuple):
    """What a teacher was trained on, as its labels say.

    Attributes:
        sets (list[dict]): Descriptions of data sets, see
            :class:`.teacher.Training`.
        images (list[tuple[int, str]]): Size in bytes and relative name of
            those that are known.
        problem (str | None): What is not known; None if all is.
    """

    sets: list[dict]
    images: list[tuple[int, str]]
    problem: str | None


def labels_root(leaf: dict) -> Path | None:
    """Find the folder of all labels of a data set: the one with a meta file.

    Args:
        leaf (dict): Config of a data set.

    Returns:
        Path | None: None if no teacher made its labels, or they are not here.
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


def read_teacher(folder: str | Path) -> TeacherRecord:
    """Read what the teacher that made some labels was trained on.

    Args:
        folder (str | Path): Of all labels, with their meta file.

    Returns:
        TeacherRecord: With a problem in the place of any error.
    """
    folder = Path(folder)
    sets: list[dict] = []
    images: list[tuple[int, str]] = []
    problems = []
    try:
        meta = json.loads((folder / META_FILE).read_text(encoding='utf-8'))
        sets = [dict(one) for one in meta['trained_on'] or []]
        if not sets:
            problems.append('trained_on is not known')
        others = _other_teachers(meta)
        if others:
            problems.append(
                f'labels of other teachers are mixed in: {", ".join(others)}'
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problems.append(f'{META_FILE}: {type(error).__name__}: {error}')
    try:
        images = read_seen(folder / SEEN_FILE)
    except FileNotFoundError:
        problems.append(f'there is no {SEEN_FILE}')
    except (OSError, ValueError) as error:
        problems.append(str(error))
    unlisted = [one for one in sets if one.get('images', 0) is None]
    if unlisted:
        names = ', '.join(str(one.get('type')) for one in unlisted)
        problems.append(f'the images of {names} were not listed')
    problem = None
    if problems:
        problem = (
            f'not all that the teacher of {folder} was trained on is known: '
            + '; '.join(problems)
        )
    return TeacherRecord(sets, images, problem)


def _other_teachers(meta: dict) -> list[str]:
    """Name the teachers whose labels ``--allow-mixed`` has kept.

    What those were trained on is not in the folder any more.
    """
    own = (meta.get('teacher') or {}).get('checkpoint_sha256')
    teachers = [one.get('teacher') or {} for one in meta.get('mixed') or ()]
    return [
        str(teacher.get('checkpoint'))
        for teacher in teachers
        if teacher.get('checkpoint_sha256') != own
    ]
