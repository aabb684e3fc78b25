"""Other runs to compare with: show-dirs, or mmseg's metrics as JSON.

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

from .run import ReportError, Run, read_run
from .scores import Scores, score

#: Blue, orange, green, purple, sky blue and vermillion of Okabe and Ito, whom
#: people with a colour blindness can tell apart; later runs begin again.
RUN_COLOURS = (
    *('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00'),
)


class Other(NamedTuple):
    """A run beside the one of the page.

    Attributes:
        name (str): What the page calls it.
        scores (Scores): Its ``iou`` is all nan where only the mean is known.
            Of a show-dir on the images that the run of the page has too.
        run (Run | None): Its records, of a show-dir.
        notes (list[str]): What limits the comparison.
        here (Scores | None): Of the run of the page on these images; None
            if they are all that it has, or are not known.
        num_images (int | None): How many these are, if known.
    """

    name: str
    scores: Scores
    run: Run | None = None
    notes: list[str] = []
    here: Scores | None = None
    num_images: int | None = None


class Column(NamedTuple):
    """A run in the tables.

    Attributes:
        name (str): What the page calls it.
        colour (str): Of its bars, for CSS.
        scores (Scores): On its images.
        num_images (int | None): How many these are, if known.
        base (Scores | None): Of the run of the page, on the same images;
            None for that run itself.
    """

    name: str
    colour: str
    scores: Scores
    num_images: int | None
    base: Scores | None = None


def read_other(text: str, run: Run) -> Other:
    """Read what ``--compare`` names.

    Args:
        text (str): ``NAME=DIR``, a show-dir, or ``NAME=FILE``, where FILE is
            what mmseg's test.py writes (``<time>.json``), the
            ``scalars.json`` of a training (its last validation counts), or
            ``{"mIoU": percent, "IoU": {class: percent or null}}``.
        run (Run): The run of the page.

    Returns:
        Other: To be compared.

    Raises:
        ReportError: If it is neither, of other classes or other images.
    """
    name, equals, path = text.partition('=')
    if not (name and equals and path):
        raise ReportError(
            f'--compare {text}: expected NAME=DIR or NAME=FILE.json'
        )
    path = Path(path)
    if path.is_dir():
        return _read_folder(name, path, run)
    if path.is_file():
        note = (
            f'{name}: {path.name} does not tell its images, so they may be '
            f'others than the {len(run.labelled)} of {run.name}.'
        )
        return Other(name, _read_metrics(path, run.classes), notes=[note])
    raise ReportError(f'--compare {text}: no such file or folder')


def columns(
    run: Run, others: Sequence[Other], scores: Scores | None
) -> list[Column]:
    """List a run and those beside it, which may have fewer images.

    Args:
        run (Run): The run of the page.
        others (Sequence[Other]): To compare it with.
        scores (Scores | None): Of the run; None without ground truth.

    Returns:
        list[Column]: The run first; before another run that has not all of
        its images, it stands again, with those images alone. Empty without
        ground truth.
    """
    if scores is None:
        return []
    found = [Column(run.name, RUN_COLOURS[0], scores, len(run.labelled))]
    for i, other in enumerate(others, 1):
        name, count = other.name, other.num_images
        if other.here is not None:
            found.append(
                Column(
                    f'{run.name}, {count} images of {name}',
                    RUN_COLOURS[0],
                    other.here,
                    count,
                )
            )
            name = f'{name}, {count} images'
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        base = other.here or scores
        found.append(Column(name, colour, other.scores, count, base))
    return found


def _read_folder(name: str, folder: Path, run: Run) -> Other:
    other = read_run(folder, name)
    if other.classes != run.classes:
        raise ReportError(
            f'--compare {name}={folder}: its classes are '
            f'{", ".join(other.classes)}; those of {run.folder} '
            f'{", ".join(run.classes)}'
        )
    if not other.labelled:
        raise ReportError(
            f'--compare {name}={folder}: no image has a ground truth'
        )
    here, there = ({r.image for r in one.labelled} for one in (run, other))
    common = here & there
    if here and not common:
        raise ReportError(
            f'--compare {name}={folder}: none of its {len(there)} images '
            f'({min(there)}, ...) is among the {len(here)} of {run.folder} '
            f'({min(here)}, ...); expected a test of the same images. The '
            'JSON file of that test can be compared without them'
        )
    scores, scores_here = (
        score([one.by_image[image] for image in sorted(common)])
        for one in (other, run)
    )
    if here == there:
        return Other(name, scores, other, num_images=len(common))
    note = (
        f'Not the same images: {run.name} has {len(here)}, {name} '
        f'{len(there)}. Compared are the {len(common)} that both have.'
    )
    return Other(name, scores, other, [note], scores_here, len(common))


def _read_metrics(path: Path, classes: tuple[str, ...]) -> Scores:
    found = _last_metrics(path)
    metrics = {
        key: _percent(path, key, found[key])
        for key in ('mIoU', 'mAcc', 'aAcc')
        if key in found
    }
    iou = np.full(len(classes), np.nan)
    by_class = found.get('IoU')
    if by_class is not None:
        if not isinstance(by_class, dict) or by_class.keys() != set(classes):
            raise ReportError(
                f'{path}: "IoU" is {by_class!r}; expected a value for each '
                f'of {", ".join(classes)}'
            )
        for k, name in enumerate(classes):
            if by_class[name] is not None:
                iou[k] = _percent(path, f'IoU of {name}', by_class[name])
    return Scores(
        iou,
        metrics['mIoU'],
        metrics.get('mAcc', np.nan),
        metrics.get('aAcc', np.nan),
    )


def _last_metrics(path: Path) -> dict[str, Any]:
    """The last object with a mIoU: of the file, or of one of its lines."""
    expected = (
        'expected JSON with "mIoU" in percent, as test.py of mmseg writes '
        'it, or lines of such, as scalars.json'
    )
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ReportError(f'{path}: no text; {expected}') from error
    try:
        objects = [json.loads(text)]
    except ValueError:
        try:
            objects = [json.loads(line) for line in text.splitlines() if line]
        except ValueError as error:
            raise ReportError(f'{path}: {error}; {expected}') from error
    found = [o for o in objects if isinstance(o, dict) and 'mIoU' in o]
    if not found:
        raise ReportError(f'{path}: no "mIoU"; {expected}')
    return found[-1]


def _percent(path: Path, key: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and 0 <= value <= 100):
        raise ReportError(
            f'{path}: {key} is {value!r}; expected a number from 0 to 100'
        )
    return float(value)
