"""The pages: tables of rows, what has a limit, and its plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hmsa_mmseg.utils import markdown_table, write_json

Row = Mapping[str, Any]
MEASURED = '../benchmarks/README.md#how-it-is-measured'


def number(value: float) -> str:
    """Format a number with three digits, or all of an integer's."""
    if not value or not math.isfinite(value):
        return f'{value:.0f}'
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f'{value:.{digits}f}'


def ratio_text(ratio: Sequence[float]) -> str:
    """Format a ratio: median, and the range of the rounds."""
    median, low, high = (f'{value:.2f}' for value in ratio)
    return median if low == high else f'{median} ({low} to {high})'


def difference_text(value: float) -> str:
    """Such as ``2e-06``."""
    return f'{value:.0e}' if value else '0'


def size_text(size: Sequence[int]) -> str:
    """Such as ``1024x2048``."""
    return 'x'.join(map(str, size))


#: Column -> heading, format, and whether quotients to the first way follow.
COLUMNS: dict[str, tuple[str, Callable[[Any], str], bool]] = {
    'miou': ('mIoU', '{:.2f}'.format, False),
    'source': ('from', str, False),
    'mparam': ('million weights', number, False),
    'difference': ('difference', difference_text, False),
    'gflop': ('GFLOP', number, True),
    'live_gb': ('GB', number, True),
    'ms': ('ms', number, False),
    'ratio': ('over the first', ratio_text, False),
    'cpu_ratio': ('CPU time', ratio_text, False),
    'cuda_gb': ('GB on the GPU', number, True),
    'error': ('remark', str, False),
}


def rows_table(rows: Sequence[Row]) -> str:
    """Table of rows, with the columns that any of them has."""
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    lines, case, first = [], None, {}
    for row in rows:
        if row['case'] != case:
            case, first = row['case'], row
            lines.append([case, row['way']])
        else:
            lines.append(['', row['way']])
        for key in columns:
            _, form, has_quotient = COLUMNS[key]
            cell = '' if row.get(key) is None else form(row[key])
            cell = cell.replace('|', '/')
            if cell and has_quotient and row is not first and first.get(key):
                cell += f' ({row[key] / first[key]:.2f})'
            lines[-1].append(cell)
    head = ['', '', *(COLUMNS[key][0] for key in columns)]
    return markdown_table(head, lines, left=2)


class Limit(NamedTuple):
    """What a figure of the rows of a way has to be.

    Of the cases whose titles begin with ``case``. Of a ratio the median is
    taken; ``over`` another way it is a quotient; ``at_least``: its inverse,
    which must not be below the limit.
    """

    what: str
    case: str
    way: str
    column: str
    limit: float
    over: str | None = None
    at_least: bool = False

    def figures(self, rows: Sequence[Row]) -> Iterable[Figure]:
        """Compare with what was measured."""
        for row in rows:
            is_meant = row['way'] == self.way and self.column in row
            if not (is_meant and row['case'].startswith(self.case)):
                continue
            value = row[self.column]
            if self.over is not None:
                keys = (row['case'], self.over)
                (other,) = (r for r in rows if (r['case'], r['way']) == keys)
                value = value / other[self.column]
            elif self.column.endswith('ratio'):
                value = value[0]
            value = 1 / value if self.at_least else value
            yield Figure(self, row['case'], value)


class Figure(NamedTuple):
    """A figure that was measured, and its limit."""

    limit: Limit
    case: str
    measured: float

    @property
    def is_met(self) -> bool:
        """Whether the limit is kept; not a number keeps none."""
        if self.limit.at_least:
            return self.measured >= self.limit.limit
        return self.measured <= self.limit.limit

    @property
    def effort(self) -> float:
        """Measured over limit, upside down if more is better: 1 is met."""
        ratio = self.measured / self.limit.limit
        return 1 / ratio if self.limit.at_least else ratio

    @property
    def texts(self) -> list[str]:
        """Cells of the table: figure, case, limit, measured, met."""
        is_gb = self.limit.column.endswith('gb') and not self.limit.over
        unit = ' GB' if is_gb else 'x' if self.limit.at_least else ''
        sign = '>=' if self.limit.at_least else '<='
        return [
            self.limit.what,
            self.case,
            f'{sign} {self.limit.limit:g}{unit}',
            f'{number(self.measured)}{unit}',
            'yes' if self.is_met else '**no**',
        ]


def figures_table(figures: Iterable[Figure]) -> str:
    """Table of what was to be reached."""
    head = ['figure', 'case', 'limit', 'measured', 'met?']
    return markdown_table(head, [fig.texts for fig in figures], left=2)


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Draw every figure as a share of its limit."""
    # Only here: nothing else needs matplotlib. No display is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 1 + 0.32 * len(figures)), layout='tight')
    FigureCanvasAgg(canvas)
    axes: Any = canvas.subplots()
    colors = ['tab:green' if fig.is_met else 'tab:orange' for fig in figures]
    efforts = [figure.effort for figure in figures]
    axes.barh(range(len(figures)), efforts, color=colors, height=0.65)
    axes.axvline(1, color='black', linewidth=1)
    labels = [': '.join(figure.texts[:2]) for figure in figures]
    axes.set_yticks(range(len(figures)), labels, fontsize=8)
    axes.invert_yaxis()
    for row, figure in enumerate(figures):
        _, _, limit, measured, _ = figure.texts
        note = f' {measured} ({limit})'
        axes.text(efforts[row], row, note, va='center', fontsize=7)
    axes.set_xlim(0, 1.25 * max([1.0, *filter(math.isfinite, efforts)]))
    axes.set_xlabel('measured as a share of the limit; left of 1: reached')
    axes.spines[['top', 'right']].set_visible(False)
    # Texts may be wider than their axes.
    canvas.savefig(path, dpi=110, bbox_inches='tight')


def describe(machine: Mapping[str, Any]) -> str:
    """One line about the machine, from ``measure.machine``."""
    parts = [machine['cpu'], f'{machine["cores"]} cores', machine['gpu']]
    parts += [f'torch {machine["torch"]}', machine.get('date')]
    if machine['load'] is not None:
        parts.append(f'load average {machine["load"]:.1f} at the end')
    return ', '.join(filter(None, parts))


def write_suite(out: Path, name: str, suite: Any, results: Row) -> str:
    """Write ``<name>.md`` and ``data/<name>.json``."""
    data = f'data/{name}.json'
    parts = [
        f'# {suite.TITLE}',
        f'```shell\n{results["command"]}\n```',
        f'{describe(results["machine"])}; all figures: [{name}.json]({data}). '
        f'How they were measured: [README]({MEASURED}).',
        suite.NOTE,
        rows_table(results['rows']),
    ]
    if hasattr(suite, 'draw') and suite.draw(results, out / f'{name}.png'):
        parts.insert(3, f'![{suite.TITLE}]({name}.png)')
    text = '\n\n'.join(parts) + '\n'
    write_json(out / data, results)
    (out / f'{name}.md').write_text(text)
    return text
