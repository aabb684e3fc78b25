"""Other runs to compare with: show-dirs, or mmseg's metrics as JSON.

Shape shorthand in this module:
    K: classes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .run import ReportError, Run, read_run
from .scores import Scores, score


class Other(NamedTuple):
    """A run beside the one of the page.

    Attributes:
        name (str): What the page calls it.
        scores (Scores): Its ``iou`` is all nan where only the mean is known.
        run (Run | None): Its records, of a show-dir.
        notes (list[str]): What limits the comparison.
    """

    name: str
    scores: Scores
    run: Run | None = None
    notes: list[str] = []


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
        ReportError: If it is neither, or of other classes.
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
        return Other(name, _read_metrics(path, run.classes))
    raise ReportError(f'--compare {text}: no such file or folder')


def _read_folder(name: str, folder: Path, run: Run) -> Other:
    other = read_run(folder, name)
    if other.classes != run.classes:
        raise ReportError(
            f'--compare {name}={folder}: its classes are '
            f'{", ".join(other.classes)}; those of {run.folder} '
            f'{", ".join(run.classes)}'
        )
    scores = score(other.records)
    if scores is None:
        raise ReportError(
            f'--compare {name}={folder}: no image has a ground truth'
        )
    here, there = ({r.image for r in one.labelled} for one in (run, other))
    notes = []
    if here != there:
        notes.append(
            f'{name} was tested on other images: {len(there)}, of which '
            f'{len(here & there)} are among the {len(here)} of this run.'
        )
    return Other(name, scores, other, notes)


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
