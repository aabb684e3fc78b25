"""The page of a report on auto-labels: what is in it, and in which order.

Shape shorthand in this module:
    K: classes, T: thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hmsa_mmseg.autolabel.report_tree import Tree
from hmsa_mmseg.autolabel.statistics import divide
from hmsa_mmseg.datasets.confidence import LEVELS, is_kept
from hmsa_mmseg.visualization.colours import as_palette, heat

from .charts import Line, Plot, draw_bars, histogram_path
from .sheet import Sample

#: Thresholds that others have used, and who.
KNOWN = {0.5: "the authors' code", 0.9: 'the paper'}
#: With more classes a table of all pairs of them cannot be read.
MAX_MATRIX = 32
#: So many of a list are in the page; all are in report.json.
MAX_LISTED = 200
#: Ratios of shares from 1 / 8 to 8 have bars of different lengths.
_MOST = 3.0
_HERE = Path(__file__).parent


def build_page(
    data: dict[str, Any], tree: Tree, samples: Sequence[Sample]
) -> str:
    """Write the page.

    Args:
        data (dict): Of ``report.json``.
        tree (Tree): The folder.
        samples (Sequence[Sample]): Images with pictures.

    Returns:
        str: Complete; it refers to nothing outside.

    Raises:
        ImportError: If jinja2 is missing.
    """
    palette = as_palette(
        tree.meta['settings'].get('palette'), len(tree.classes)
    )
    threshold = data['threshold']
    thresholds = data['coverage']['thresholds']
    truths = [
        (key, title, data[key], _matrices(data[key], data))
        for key, title in (('check', 'true'), ('coarse', 'coarse'))
        if data[key]
    ]
    check = data['check']
    template = _environment().get_template('autolabel.html.j2')
    return template.render(
        data=data,
        title=f'Auto-labels: {tree.folder.resolve().name}',
        tree=tree,
        at=thresholds.index(threshold),
        num_all=len(tree.lines) + len(tree.failures) + len(tree.missing),
        coverage_plot=_coverage_plot(data),
        reliability=draw_bars(check['bins']) if check else None,
        marked=_marked(data),
        truths=truths,
        samples=samples,
        histograms=[
            histogram_path(row['histogram']) for row in data['class_rows']
        ],
        ratios=[_ratio_bar(row.get('ratio')) for row in data['class_rows']],
        palette=[f'#{bytes(c).hex()}' for c in palette],
        heat=', '.join(
            f'#{bytes(c).hex()}' for c in heat(np.linspace(0, 1, 9)[None])[0]
        ),
        max_listed=MAX_LISTED,
        frame='high' if len(palette) > MAX_MATRIX else 'wide',
    )


@lru_cache
def _environment():
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            'the report needs jinja2: pip install "hmsa_mmseg[demo]"'
        ) from error
    environment = jinja2.Environment(
        # The second has the style that all pages share.
        loader=jinja2.FileSystemLoader([_HERE, _HERE.parent / 'reporting']),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=lambda value, digits=1: _number(value, digits, 100),
        number=_number,
        signed=lambda value: _number(value, 1, 100, '+'),
        count='{:,}'.format,
    )
    environment.tests['known'] = lambda value: value is not None
    return environment


def _number(
    value: float | None, digits: int = 1, factor: float = 1, sign: str = ''
) -> str:
    """For people: with a real minus sign, and a dash for what is not known."""
    if value is None:
        return '\N{EN DASH}'
    text = f'{round(factor * value, digits) + 0.0:{sign}.{digits}f}'
    return text.replace('-', '\N{MINUS SIGN}')


def _coverage_plot(data: dict[str, Any]) -> Plot:
    """Coverage, and on a labelled split precision, by threshold."""
    lines = [Line('kept of all auto-labels', 'all', data['coverage']['curve'])]
    if data['check']:
        lines.append(
            Line(
                'right of those kept (check)', 'right', data['check']['curve']
            )
        )
    marks = {t: f'{t:g}' for t in KNOWN}
    suggestion = data['check'] and data['check']['suggestion']
    if suggestion:
        marks[suggestion['threshold']] = 'suggested'
    return Plot.of(lines, LEVELS, marks)


def _marked(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The suggested threshold, those of others, and that of the report."""
    curve = data['coverage']['curve']
    check = data['check']
    rows = []
    if check and check['suggestion']:
        rows.append(dict(check['suggestion'], who='suggested'))
    for threshold, who in KNOWN.items():
        rows.append(dict(threshold=threshold, who=who))
    if data['threshold'] not in [row['threshold'] for row in rows]:
        rows.append(dict(threshold=data['threshold'], who='this report'))
    for row in rows:
        level = int(np.argmax(is_kept(row['threshold'])))
        row['coverage_of_all'] = curve[level]
        for one in check['thresholds'] if check else ():
            if one['threshold'] == row['threshold']:
                row.update(one)
    return rows


def _matrices(
    part: dict[str, Any], data: dict[str, Any]
) -> list[dict[str, Any]]:
    """Confusion at some of the thresholds, in shares of the rows."""
    found = []
    thresholds = data['coverage']['thresholds']
    for i, threshold in enumerate(thresholds):
        if threshold not in (0, data['threshold'], *KNOWN):
            continue
        counts = np.array(part['confusion'][i])
        shares = divide(counts, counts.sum(1)[:, None])
        wrong = counts * ~np.eye(len(counts), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind='stable')[:20]
        top = [
            dict(true=a, given=b, pixels=int(wrong[a, b]), share=shares[a, b])
            for a, b in zip(*np.unravel_index(order, wrong.shape))
            if wrong[a, b]
        ]
        is_small = len(counts) <= MAX_MATRIX
        found.append(
            dict(
                threshold=threshold,
                rows=shares.tolist() if is_small else None,
                top=top,
            )
        )
    return found


def _ratio_bar(ratio: float | None) -> dict[str, float] | None:
    """Place of a bar that shows a ratio, in percent of its cell."""
    if not ratio:
        return None
    length = max(-_MOST, min(_MOST, math.log2(ratio))) / _MOST * 50
    return dict(left=50 + min(length, 0), width=abs(length))
