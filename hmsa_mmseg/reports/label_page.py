"""The page of a report on auto-labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hmsa_mmseg.datasets.confidence import LEVELS, is_kept
from hmsa_mmseg.utils.confusion import divide
from hmsa_mmseg.visualization.colours import as_palette, heat, paint

from . import charts
from .label_figures import most_confused
from .label_set import DamagedPairError, LabelSet
from .pages import build_page, heat_gradient, shrunk_uri

#: Thresholds that others have used, and who.
KNOWN = {0.5: "the authors' code", 0.9: 'the paper'}
#: With more classes a table of all pairs of them cannot be read.
MAX_MATRIX = 32
#: So many of a list are in the page; all are in report.json.
MAX_LISTED = 200
#: Width of pictures, px, at most.
WIDTH = 480
#: Colour of pixels that are not kept.
DARK = (18, 18, 22)
# Ratios of shares from 1 / 8 to 8 have bars of different lengths.
_MOST = 3.0


def label_page(data: dict[str, Any], labels: LabelSet) -> str:
    """Write the page from what is in ``report.json``.

    It refers to nothing outside but to the labels.
    """
    palette = as_palette(
        labels.meta['settings'].get('palette'), len(labels.classes)
    )
    threshold, check = data['threshold'], data['check']
    lines, marks = _curves(data)
    rows = data['class_rows']
    return build_page(
        'labels.html.j2',
        data=data,
        title=f'Auto-labels: {labels.folder.resolve().name}',
        labels=labels,
        at=data['coverage']['thresholds'].index(threshold),
        num_all=sum(map(len, (labels.lines, labels.failures, labels.missing))),
        lines=lines,
        marks=marks,
        bars=charts.bars(check['bins']) if check else None,
        marked=_marked(data),
        truths=[
            (key, title, data[key], _matrices(data[key], data))
            for key, title in (('check', 'true'), ('coarse', 'coarse'))
            if data[key]
        ],
        samples=[
            _draw(labels, palette, row, threshold)
            for row in data['worst']['worst']
        ],
        histograms=[charts.histogram(row['histogram']) for row in rows],
        ratios=[_ratio_bar(row.get('ratio')) for row in rows],
        palette=palette,
        dark=DARK,
        heat=heat_gradient(),
        max_listed=MAX_LISTED,
        frame='high' if len(palette) > MAX_MATRIX else 'wide',
    )


def _curves(
    data: dict[str, Any],
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Coverage, and on a labelled split precision, by threshold."""
    found = [('kept of all auto-labels', 'all', data['coverage'])]
    marks = {threshold: f'{threshold:g}' for threshold in KNOWN}
    if data['check']:
        found.append(('right of those kept (check)', 'right', data['check']))
        if data['check']['suggestion']:
            marks[data['check']['suggestion']['threshold']] = 'suggested'
    lines = [
        dict(name=name, key=key, path=charts.curve(LEVELS, part['curve']))
        for name, key, part in found
    ]
    return lines, charts.marks(marks)


def _marked(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The suggested threshold, those of others, and that of the report."""
    check = data['check']
    rows = [dict(threshold=t, who=who) for t, who in KNOWN.items()]
    if check and check['suggestion']:
        rows.insert(0, dict(check['suggestion'], who='suggested'))
    if data['threshold'] not in [row['threshold'] for row in rows]:
        rows.append(dict(threshold=data['threshold'], who='this report'))
    for row in rows:
        level = int(np.argmax(is_kept(row['threshold'])))
        row['coverage_of_all'] = data['coverage']['curve'][level]
        for one in check['thresholds'] if check else ():
            if one['threshold'] == row['threshold']:
                row.update(one)
    return rows


def _matrices(
    part: dict[str, Any], data: dict[str, Any]
) -> list[dict[str, Any]]:
    """Confusion at some of the thresholds, in shares of the rows."""
    found = []
    for i, threshold in enumerate(data['coverage']['thresholds']):
        if threshold not in (0, data['threshold'], *KNOWN):
            continue
        counts = np.array(part['confusion'][i])
        shares = divide(counts, counts.sum(1)[:, None])
        found.append(
            dict(
                threshold=threshold,
                rows=shares.tolist() if len(counts) <= MAX_MATRIX else None,
                top=[
                    dict(true=a, given=b, pixels=n, share=shares[a, b])
                    for a, b, n in most_confused(counts)
                ],
            )
        )
    return found


def _ratio_bar(ratio: float | None) -> dict[str, float] | None:
    """Place of a bar that shows a ratio, in percent of its cell."""
    if not ratio:
        return None
    length = max(-_MOST, min(_MOST, math.log2(ratio))) / _MOST * 50
    return dict(left=50 + min(length, 0), width=abs(length))


def _draw(
    labels: LabelSet,
    palette: np.ndarray,
    row: dict[str, Any],
    threshold: float,
) -> dict[str, Any]:
    """Draw an image, its label, dark below a threshold, and confidence."""
    line = labels.lines[labels.names[row['name']]]
    pictures = dict(image=_image(row['image'], labels.folder))
    sample = dict(row=row, pictures=pictures, size=line['size'])
    try:
        label, confidence = labels.read(line)
    # Whoever writes to the folder meanwhile.
    except DamagedPairError:
        return sample
    colours = paint(label, palette)
    colours[~is_kept(threshold)[confidence]] = DARK
    pictures['label'] = _shrunk(Image.fromarray(colours), flat=True)
    if labels.has_confidence:
        picture = Image.fromarray(heat(confidence / 255))
        pictures['confidence'] = _shrunk(picture)
    return sample


def _image(text: str | None, folder: Path) -> str | None:
    for path in (Path(text), folder / text) if text else ():
        try:
            with Image.open(path) as file:
                height = max(WIDTH * file.height // file.width, 1)
                file.draft('RGB', (WIDTH, height))
                # Readers of labels turn the image as its EXIF data say.
                return _shrunk(ImageOps.exif_transpose(file).convert('RGB'))
        # Pillow's readers raise anything, also for what is only too large.
        except Exception:
            continue
    return None


def _shrunk(image: Image.Image, flat: bool = False) -> str:
    """Encode a picture of which neither side is longer than the width."""
    longest = max(image.size)
    width = min(WIDTH, max(1, round(image.width * WIDTH / longest)))
    return shrunk_uri(image, width, flat)
