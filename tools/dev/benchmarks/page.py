"""The pages: tables of rows, and what has a limit."""

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


def graph_text(found: Sequence[float]) -> str:
    """Of a graph, and of eager runs among themselves."""
    graph, eager = map(difference_text, found)
    return f'{graph} (eager {eager})'


def size_text(size: Sequence[int]) -> str:
    """Such as ``1024x2048``."""
    return 'x'.join(map(str, size))


#: Column -> heading, format, and whether quotients to the first way follow.
COLUMNS: dict[str, tuple[str, Callable[[Any], str], bool]] = {
    'miou': ('mIoU', '{:.2f}'.format, False),
    'source': ('from', str, False),
    'mparam': ('million weights', number, False),
    'difference': ('difference', difference_text, False),
    'graph_difference': ('graph to eager', graph_text, False),
    'operations': ('operations', number, True),
    'gflop': ('GFLOP', number, True),
    'live_gb': ('GB', number, True),
    'ms': ('ms', number, False),
    'ratio': ('over the first', ratio_text, False),
    'cpu_ratio': ('CPU time', ratio_text, False),
    'issue_ms': ('until started, ms', number, False),
    'device_ms': ('kernels, ms', number, False),
    'kernels': ('kernels', number, False),
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
    which must not be below the limit. Without a limit it is only reported.
    """

    what: str
    case: str
    way: str
    column: str
    limit: float | None
    over: str | None = None
    at_least: bool = False
    on_gpu: bool = False

    def figures(self, rows: Sequence[Row], date: str) -> list[Figure]:
        """Compare with what was measured, or say that nothing was."""
        found = list(self._measured(rows, date))
        return found or [Figure(self, self.case)]

    def _measured(self, rows: Sequence[Row], date: str) -> Iterable[Figure]:
        for row in rows:
            is_meant = row['way'] == self.way and self.column in row
            if not (is_meant and row['case'].startswith(self.case)):
                continue
            value = row[self.column]
            if self.over is not None:
                keys = (row['case'], self.over)
                (other,) = (r for r in rows if (r['case'], r['way']) == keys)
                if self.column not in other:
                    continue
                value = value / other[self.column]
            elif self.column.endswith('ratio'):
                value = value[0]
            value = 1 / value if self.at_least else value
            yield Figure(self, row['case'], value, date)


class Figure(NamedTuple):
    """A figure with a limit, and what was measured: None if nothing was."""

    limit: Limit
    case: str
    measured: float | None = None
    date: str = ''

    @property
    def is_met(self) -> bool:
        """Whether the limit is kept; not a number keeps none."""
        if self.limit.at_least:
            return self.measured >= self.limit.limit
        return self.measured <= self.limit.limit

    @property
    def texts(self) -> list[str]:
        """Cells of the table: figure, case, limit, measured, date, met."""
        is_gb = self.limit.column.endswith('gb') and not self.limit.over
        unit = ' GB' if is_gb else 'x' if self.limit.at_least else ''
        sign = '>=' if self.limit.at_least else '<='
        limit, is_met = 'reported', ''
        if self.limit.limit is not None:
            limit = f'{sign} {self.limit.limit:g}{unit}'
        if self.measured is None:
            return [self.limit.what, self.case, limit, 'never run', '', '']
        if self.limit.limit is not None:
            is_met = 'yes' if self.is_met else '**no**'
        measured = f'{number(self.measured)}{unit}'
        what = (self.limit.what, self.case)
        return [*what, limit, measured, self.date, is_met]


def figures_table(figures: Iterable[Figure]) -> str:
    """Table of what was to be reached."""
    head = ['figure', 'case', 'limit', 'measured', 'on', 'met?']
    return markdown_table(head, [fig.texts for fig in figures], left=2)


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
