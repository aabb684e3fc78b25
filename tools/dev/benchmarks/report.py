"""The table of what is to be reached, and its figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_DIGITS = {'x': 2, 'GB': 2, 'MB': 1, '%': 1, 'GFLOP': 0}


class Figure(NamedTuple):
    """A figure that was measured, and what it has to be.

    Attributes:
        name (str): What was measured.
        against (str): What it is compared with.
        measured (float): The figure, in ``unit``.
        unit (str): ``x`` for a ratio, ``GB``, ``MB`` or ``%``.
        target (float, optional): None if it is reported only.
        at_least (bool): Whether more is better. Defaults to False.
        detail (str): How it came about: size, range, absolute figures.
    """

    name: str
    against: str
    measured: float
    unit: str = 'x'
    target: float | None = None
    at_least: bool = False
    detail: str = ''

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        if self.at_least:
            return self.measured >= self.target
        return self.measured <= self.target

    @property
    def effort(self) -> float:
        """Measured over target, upside down if more is better: 1 is met."""
        ratio = self.measured / self.target
        return 1 / ratio if self.at_least else ratio

    def text(self, value: float) -> str:
        """Format a value in this figure's unit."""
        unit = '' if self.unit == 'x' and not self.at_least else self.unit
        space = ' ' if unit not in ('', 'x') else ''
        return f'{value:.{_DIGITS[self.unit]}f}{space}{unit}'

    @property
    def target_text(self) -> str:
        """Such as ``<= 0.60``."""
        if self.target is None:
            return 'reported'
        return f'{">=" if self.at_least else "<="} {self.text(self.target)}'


def table(figures: Iterable[Figure]) -> str:
    """Markdown table of figures."""
    lines = [
        '| figure | against | target | measured | met? | |',
        '| :-- | :-- | --: | --: | :-: | :-- |',
    ]
    marks = {True: 'yes', False: '**no**', None: ''}
    for figure in figures:
        lines.append(
            f'| {figure.name} | {figure.against} | {figure.target_text} '
            f'| {figure.text(figure.measured)} | {marks[figure.is_met]} '
            f'| {figure.detail} |'
        )
    return '\n'.join(lines)


def shares_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table of where the time goes.

    Args:
        columns (Mapping): Title -> part -> share of the time.

    Returns:
        str: One row for each part, the largest first.
    """
    parts: dict[str, float] = {}
    for column in columns.values():
        for part, share in column.items():
            parts[part] = max(parts.get(part, 0), share)
    lines = [
        f'| | {" | ".join(columns)} |',
        f'| :-- |{" --: |" * len(columns)}',
    ]
    for part in sorted(parts, key=parts.get, reverse=True):
        cells = [
            f'{100 * column[part]:.1f} %' if part in column else ''
            for column in columns.values()
        ]
        lines.append(f'| {part} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def ratio_text(ratio: Mapping[str, float]) -> str:
    """Format a ratio: median, and the range of the rounds."""
    if ratio['low'] == ratio['high']:
        return f'{ratio["median"]:.2f}'
    return f'{ratio["median"]:.2f} ({ratio["low"]:.2f} to {ratio["high"]:.2f})'


def size_text(size: Sequence[int]) -> str:
    """Such as ``1024x2048``."""
    return 'x'.join(map(str, size))


def plot(figures: Iterable[Figure], path: Path) -> None:
    """Draw every figure that has a target, as a share of it.

    Args:
        figures (Iterable[Figure]): Those without a target are left out.
        path (Path): The PNG file to write.
    """
    # Only here: nothing else needs matplotlib. No display is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figures = [figure for figure in figures if figure.target is not None]
    canvas = Canvas(figsize=(9, 1 + 0.32 * len(figures)), layout='tight')
    FigureCanvasAgg(canvas)
    axes: Any = canvas.subplots()
    colors = ['tab:green' if fig.is_met else 'tab:orange' for fig in figures]
    values = [figure.effort for figure in figures]
    axes.barh(range(len(figures)), values, color=colors, height=0.65)
    axes.axvline(1, color='black', linewidth=1)
    axes.set_yticks(
        range(len(figures)),
        [f'{figure.name}, against {figure.against}' for figure in figures],
        fontsize=8,
    )
    axes.invert_yaxis()
    for row, figure in enumerate(figures):
        note = f' {figure.text(figure.measured)} ({figure.target_text})'
        axes.text(values[row], row, note, va='center', fontsize=7)
    axes.set_xlim(0, 1.25 * max([1.0, *filter(math.isfinite, values)]))
    axes.set_xlabel('measured as a share of the target; left of 1: reached')
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    # Texts may be wider than their axes.
    canvas.savefig(path, dpi=110, bbox_inches='tight')
