"""From a show-dir to its page.

Shape shorthand in this module:
    K: classes, S: scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.confusion import mean_known
from hmsa_mmseg.visualization import read_records, read_run
from hmsa_mmseg.visualization.colours import (
    IGNORED,
    WRONG,
    scale_palette,
    text_colour,
)

from .pages import build_page, css, heat_gradient, is_known
from .pages import progress as show_progress
from .run_columns import Column, compare
from .run_images import image_rows
from .runs import Run, Scores, class_shares, scale_iou, score

#: A share with less room than this has no number in its bar.
MIN_LABELLED = 0.13
#: Differences of mIoU, in percent, that are more than rounding.
TOLERANCE = 0.05


def report_run(
    folder: Path,
    out: Path,
    others: Sequence[str] = (),
    name: str = 'this run',
    title: str | None = None,
    max_images: int = 20,
    max_bytes: float = 60e6,
    width: int = 1024,
) -> tuple[str, list[str]]:
    """Write the page of a run.

    Args:
        folder (Path): The show-dir.
        out (Path): The page.
        others (Sequence[str]): To compare it with, see
            :func:`.run_columns.compare`.
        name (str): Of the run, in comparisons.
        title (str, optional): Of the page; None: the name of the config.
        max_images (int): So many images have pictures at most.
        max_bytes (float): As many bytes as their pictures may take.
        width (int): Of the pictures, px, at most.

    Returns:
        tuple[str, list[str]]: How many images have pictures, and what the
        reader should know, which is in the page too.

    Raises:
        OSError: If there are no records, or the page cannot be written.
        ValueError: If a record or a picture is missing or damaged, or runs
            do not fit each other.
        ImportError: If jinja2 is missing.
    """
    run = Run(name, folder, read_records(folder), read_run(folder) or {})
    scores = score(run.records)
    columns, runs, notes = [], [], []
    if scores is not None:
        columns, runs, notes = compare(run, scores, others)
    elif others:
        raise ValueError(
            f'{run.folder}: no image has a ground truth, so there is nothing '
            'to compare'
        )
    with show_progress('images', min(max_images, len(run.records))) as update:
        rows, limit = image_rows(
            run, runs, max_images, max_bytes, width, update
        )
    shown = [row for row in rows if row.pictures]
    notes += _notes(run, scores)
    config = run.info.get('config')
    # Of others only the mean may be known.
    class_runs = [
        column
        for i, column in enumerate(columns)
        if i == 0 or not np.isnan(column.scores.iou).all()
    ]
    scale_colours = scale_palette(len(run.scales)) if run.scales else ()
    html = build_page(
        'run.html.j2',
        title=title or (Path(config).stem if config else 'Report of a run'),
        run=run,
        runs=columns,
        class_runs=class_runs,
        compared=[other.name for other in runs],
        scores=scores,
        rows=rows,
        shown=shown,
        notes=notes,
        choices={p.key: p.title for row in shown for p in row.pictures},
        class_rows=_class_rows(run, class_runs),
        scale_rows=_scale_rows(run, scores),
        shares=[
            (by, shares)
            for by in ('predicted', 'labelled')
            if (shares := class_shares(run, by)) is not None
        ],
        scale_colours=[(css(c), css(text_colour(c))) for c in scale_colours],
        scale_names=[f'{scale:g}' for scale in run.scales],
        # Whether several scales have the largest weight of a pixel.
        has_ties=any(
            np.sum(record.class_wins) < sum(record.class_pixels)
            for record in run.records
            if record.class_wins is not None
        ),
        heat=heat_gradient(),
        wrong=css(WRONG),
        ignored=css(IGNORED),
        points=[
            row
            for row in rows
            if is_known(row.error) and is_known(row.confidence)
        ],
        min_labelled=MIN_LABELLED,
    )
    with atomic_file(out) as file:
        file.write(html.encode())
    told = f'{len(shown)} of {len(rows)} images with pictures'
    return told + (f', limited by {limit}' if limit else ''), notes


def _class_rows(
    run: Run, columns: Sequence[Column]
) -> list[tuple[str, float, list[tuple]]]:
    """Name, share of the labelled pixels, and IoU and gain in each run."""
    if not columns:
        return []
    labelled = np.sum([r.labelled for r in run.labelled.values()], axis=0)
    shares = 100 * labelled / max(labelled.sum(), 1)
    return [
        (
            name,
            shares[k],
            [
                (iou := float(c.scores.iou[k]), c.base and c.base.iou[k] - iou)
                for c in columns
            ],
        )
        for k, name in enumerate(run.classes)
    ]


def _scale_rows(
    run: Run, scores: Scores | None
) -> list[tuple[str, list[float], float]]:
    """Name, IoU of each scale alone, and of the blend; first the means."""
    found = scale_iou(run.records)
    if found is None:
        return []
    rows = [('mean', [mean_known(iou) for iou in found], scores.miou)]
    for k, name in enumerate(run.classes):
        rows.append((name, found[:, k].tolist(), float(scores.iou[k])))
    return rows


def _notes(run: Run, scores: Scores | None) -> list[str]:
    notes = []
    count = len(run.records)
    stated = run.info.get('num_images', count)
    if stated != count:
        notes.append(
            f'The run has drawn {stated} images, but there are records of '
            f'{count}.'
        )
    # The file is written again, with both, when the test ends.
    if 'mode' in run.info and 'metrics' not in run.info:
        notes.append(
            'The test has not ended: images may be missing, or be of a test '
            'that was drawn here before.'
        )
    if scores is None:
        notes.append(
            'No image has a ground truth: there is no IoU, and images are '
            'sorted by confidence.'
        )
        return notes
    without = count - len(run.labelled)
    if without:
        notes.append(
            f'{without} of {count} images have no ground truth; scores are '
            'of the others.'
        )
    reported = (run.info.get('metrics') or {}).get('mIoU')
    if reported is not None and abs(reported - scores.miou) > TOLERANCE:
        notes.append(
            f'mmseg reported mIoU {reported:.2f}, these records have '
            f'{scores.miou:.2f}: they are not of all images of that test, or '
            'also of others.'
        )
    return notes
