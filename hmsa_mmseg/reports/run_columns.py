"""Runs beside each other: show-dirs, or mmseg's metrics as JSON.

Shape shorthand in this module:
    K: classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmsa_mmseg.visualization import read_records

from .runs import Run, Scores, score

#: Blue, orange, green, purple, sky blue and vermillion of Okabe and Ito, whom
#: people with a colour blindness can tell apart; later runs begin again.
RUN_COLOURS = (
    *('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00'),
)


class Column(NamedTuple):
    """A run in the tables.

    Its scores are of the images that the run of the page has too, as many as
    ``num_images`` if that is known, with an ``iou`` of nan where only the mean
    is; ``base`` are those of the run of the page itself on these images.
    """

    name: str
    colour: str
    scores: Scores
    num_images: int | None
    base: Scores | None = None


def compare(
    run: Run, scores: Scores, texts: Sequence[str]
) -> tuple[list[Column], list[Run], list[str]]:
    """Read what ``--compare`` names.

    That is ``NAME=DIR``, a show-dir, or ``NAME=FILE``, where FILE is what
    mmseg's test.py writes (``<time>.json``), the ``scalars.json`` of a
    training (its last validation counts), or
    ``{"mIoU": percent, "IoU": {class: percent or null}}``.

    Returns:
        tuple[list[Column], list[Run], list[str]]: The run of the page first;
        before a run that has not all of its images, it stands again, with
        those images alone. The other runs that are show-dirs. What limits
        the comparison.
    """
    num_images = len(run.labelled)
    columns = [Column(run.name, RUN_COLOURS[0], scores, num_images)]
    runs, notes = [], []
    for i, text in enumerate(texts, 1):
        name, equals, path = text.partition('=')
        if not (name and equals and path):
            raise ValueError(
                f'--compare {text}: expected NAME=DIR or NAME=FILE.json'
            )
        colour, path = RUN_COLOURS[i % len(RUN_COLOURS)], Path(path)
        count, base = None, scores
        if path.is_dir():
            other = Run(name, path, read_records(path), {})
            common = _common_images(run, other)
            runs.append(other)
            base, there = (
                score([one.labelled[image] for image in common])
                for one in (run, other)
            )
            count, total = len(common), len(other.labelled)
            if not count == num_images == total:
                notes.append(
                    f'Not the same images: {run.name} has {num_images}, '
                    f'{name} {total}. Compared are the {count} that both '
                    'have.'
                )
                again = f'{run.name}, {count} images of {name}'
                columns.append(Column(again, RUN_COLOURS[0], base, count))
                name = f'{name}, {count} images'
        elif path.is_file():
            there = _read_metrics(path, run.classes)
            notes.append(
                f'{name}: {path.name} does not tell its images, so they may '
                f'be others than the {num_images} of {run.name}.'
            )
        else:
            raise ValueError(f'--compare {text}: no such file or folder')
        columns.append(Column(name, colour, there, count, base))
    return columns, runs, notes


def _common_images(run: Run, other: Run) -> list[str]:
    """Labelled images of two show-dirs."""
    where = f'--compare {other.name}={other.folder}'
    if other.classes != run.classes:
        raise ValueError(
            f'{where}: its classes are {", ".join(other.classes)}; those of '
            f'{run.folder} {", ".join(run.classes)}'
        )
    here, there = run.labelled, other.labelled
    if not there:
        raise ValueError(f'{where}: no image has a ground truth')
    common = sorted(here.keys() & there.keys())
    if not common:
        raise ValueError(
            f'{where}: none of its {len(there)} images ({min(there)}, ...) '
            f'is among the {len(here)} of {run.folder} ({min(here)}, ...); '
            'expected a test of the same images. The JSON file of that test '
            'can be compared without them'
        )
    return common


def _read_metrics(path: Path, classes: tuple[str, ...]) -> Scores:
    found = _last_metrics(path)
    means = [
        _percent(path, key, found[key]) if key in found else np.nan
        for key in ('mIoU', 'mAcc', 'aAcc')
    ]
    iou = np.full(len(classes), np.nan)
    by_class = found.get('IoU')
    if by_class is not None:
        if not isinstance(by_class, dict) or by_class.keys() != set(classes):
            raise ValueError(
                f'{path}: "IoU" is {by_class!r}; expected a value for each '
                f'of {", ".join(classes)}'
            )
        for k, name in enumerate(classes):
            if by_class[name] is not None:
                iou[k] = _percent(path, f'IoU of {name}', by_class[name])
    return Scores(iou, *means)


def _last_metrics(path: Path) -> dict[str, Any]:
    """The last object with a mIoU: of the file, or of one of its lines."""
    expected = (
        'expected JSON with "mIoU" in percent, as test.py of mmseg writes '
        'it, or lines of such, as scalars.json'
    )
    try:
        text = path.read_text(encoding='utf-8')
        try:
            objects = [json.loads(text)]
        except ValueError:
            objects = [json.loads(line) for line in text.splitlines() if line]
    except ValueError as error:
        raise ValueError(f'{path}: {error}; {expected}') from error
    found = [o for o in objects if isinstance(o, dict) and 'mIoU' in o]
    if not found:
        raise ValueError(f'{path}: no "mIoU"; {expected}')
    return found[-1]


def _percent(path: Path, key: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and 0 <= value <= 100):
        raise ValueError(
            f'{path}: {key} is {value!r}; expected a number from 0 to 100'
        )
    return float(value)
