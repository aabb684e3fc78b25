"""The page itself: what is in it, and in which order.

Shape shorthand in this module:
    K: classes, S: scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hmsa_mmseg.visualization.colours import (
    IGNORED,
    WRONG,
    heat,
    scale_palette,
    text_colour,
)

from .compare import Other, columns
from .images import ImageRow, Options, image_rows
from .run import ReportError, Run
from .scores import mean, scale_iou, score
from .shares import class_shares

#: A share with less room than this has no number in its bar.
MIN_LABELLED = 0.13
#: Differences of mIoU, in percent, that are more than rounding.
TOLERANCE = 0.05


class Page(NamedTuple):
    """A page that is written.

    Attributes:
        html (str): Its text.
        num_images (int): Of the run.
        num_shown (int): Of those with pictures.
        limit (str): What kept the others from having some, or ''.
        notes (list[str]): What the reader should know; they are in the page.
    """

    html: str
    num_images: int
    num_shown: int
    limit: str
    notes: list[str]


def build_page(
    run: Run,
    others: Sequence[Other],
    options: Options,
    progress: Callable[[], None] = lambda: None,
) -> Page:
    """Write the page of a run.

    Args:
        run (Run): The run.
        others (Sequence[Other]): To compare it with.
        options (Options): Sizes and title.
        progress (Callable): Is called for each image that has its pictures.

    Returns:
        Page: Complete; it refers to nothing outside.

    Raises:
        ReportError: If a picture is missing or damaged.
    """
    template = _environment().get_template('page.html.j2')
    scores = score(run.records)
    if scores is None and others:
        raise ReportError(
            f'{run.folder}: no image has a ground truth, so there is nothing '
            'to compare'
        )
    rows, limit = image_rows(
        run,
        [other.run for other in others if other.run is not None],
        options,
        progress,
    )
    shown = [row for row in rows if row.pictures]
    notes = _notes(run, others, scores)
    runs = columns(run, others, scores)
    # Of others only the mean may be known.
    class_runs = [
        *runs[:1],
        *(one for one in runs[1:] if not np.isnan(one.scores.iou).all()),
    ]
    html = template.render(
        title=options.title,
        run=run,
        others=others,
        runs=runs,
        class_runs=class_runs,
        scores=scores,
        rows=rows,
        shown=shown,
        notes=notes,
        choices=_choices(shown),
        class_rows=_class_rows(run, class_runs),
        scale_rows=_scale_rows(run, scores),
        shares=[
            (by, found)
            for by in ('predicted', 'labelled')
            if (found := class_shares(run, by)) is not None
        ],
        palette=[_css(colour) for colour in run.palette],
        scale_colours=_scale_colours(run),
        scale_names=[f'{scale:g}' for scale in run.scales],
        has_ties=_has_ties(run),
        compared=[o.name for o in others if o.run is not None],
        heat=', '.join(_css(c) for c in heat(np.linspace(0, 1, 9)[None])[0]),
        wrong=_css(WRONG),
        ignored=_css(IGNORED),
        points=[
            row
            for row in rows
            if not (math.isnan(row.error) or math.isnan(row.confidence))
        ],
        min_labelled=MIN_LABELLED,
    )
    return Page(html, len(rows), len(shown), limit, notes)


def _environment():
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            'the report needs jinja2: pip install "hmsa_mmseg[demo]"'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=_number,
        signed=lambda value: _number(value, sign='+'),
        # For scripts.
        raw=lambda v: '' if v is None or math.isnan(v) else f'{v:.4f}',
    )
    environment.tests['known'] = lambda v: v is not None and not math.isnan(v)
    return environment


def _number(value: float | None, digits: int = 1, sign: str = '') -> str:
    """For people: with a real minus sign, and a dash for what is not known."""
    if value is None or math.isnan(value):
        return '\N{EN DASH}'
    text = f'{round(value, digits) + 0.0:{sign}.{digits}f}'
    return text.replace('-', '\N{MINUS SIGN}')


def _css(colour: Sequence[int]) -> str:
    return f'#{bytes(int(c) for c in colour).hex()}'


def _scale_colours(run: Run) -> list[tuple[str, str]]:
    """Colour of each scale, and that of a text on it."""
    colours = scale_palette(len(run.scales)) if run.scales else []
    return [(_css(c), _css(text_colour(c))) for c in colours]


def _has_ties(run: Run) -> bool:
    """Whether several scales have the largest weight of a pixel."""
    return any(
        np.sum(r.class_wins) < sum(r.class_pixels)
        for r in run.records
        if r.class_wins is not None
    )


def _choices(shown: list[ImageRow]) -> list[tuple[str, str]]:
    """Keys and titles of all pictures that there are."""
    return [
        *{p.key: (p.key, p.title) for r in shown for p in r.pictures}.values()
    ]


def _class_rows(run, class_runs) -> list[tuple[str, float, list[tuple]]]:
    """Name, share of the labelled pixels, and IoU and gain in each run."""
    if not class_runs:
        return []
    labelled = np.sum([r.labelled for r in run.labelled], axis=0)
    shares = 100 * labelled / max(labelled.sum(), 1)
    return [
        (
            name,
            shares[k],
            [
                (iou := float(c.scores.iou[k]), c.base and c.base.iou[k] - iou)
                for c in class_runs
            ],
        )
        for k, name in enumerate(run.classes)
    ]


def _scale_rows(run, scores) -> list[tuple[str, list[float], float]]:
    """Name, IoU of each scale alone, and of the blend; first the means."""
    found = scale_iou(run.records)
    if found is None:
        return []
    rows = [('mean', [mean(iou) for iou in found], scores.miou)]
    for k, name in enumerate(run.classes):
        rows.append((name, found[:, k].tolist(), float(scores.iou[k])))
    return rows


def _notes(run, others, scores) -> list[str]:
    notes = [note for other in others for note in other.notes]
    stated = run.info.get('num_images', len(run.records))
    if stated != len(run.records):
        notes.append(
            f'The run has drawn {stated} images, but there are records of '
            f'{len(run.records)}.'
        )
    # The file is written again, with both, when the test ends.
    if 'mode' in run.info and 'metrics' not in run.info:
        notes.append(
            'The test has not ended: images may be missing, or be of a test '
            'that was drawn here before.'
        )
    without = len(run.records) - len(run.labelled)
    if scores is None:
        notes.append(
            'No image has a ground truth: there is no IoU, and images are '
            'sorted by confidence.'
        )
    elif without:
        notes.append(
            f'{without} of {len(run.records)} images have no ground truth; '
            'scores are of the others.'
        )
    reported = (run.info.get('metrics') or {}).get('mIoU')
    if (
        scores is not None
        and reported is not None
        and abs(reported - scores.miou) > TOLERANCE
    ):
        notes.append(
            f'mmseg reported mIoU {reported:.2f}, these records have '
            f'{scores.miou:.2f}: they are not of all images of that test, or '
            'also of others.'
        )
    return notes
