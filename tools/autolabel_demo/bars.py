"""Scores as bars, in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: In units of the drawing.
WIDTH, ROW, BAR = 600, 34, 14
#: Of the values' range, left free at each end.
MARGIN = 0.08


class Bar(NamedTuple):
    """One row of the drawing; lengths in its units.

    Attributes:
        title (str): Name of the row.
        top (float): Upper edge of the bar.
        length (float): Of the bar: the mean.
        least, most (float): Ends of the line of the seeds' range.
        dots (list[float]): Place of each seed.
        text (str): The mean.
    """

    title: str
    top: float
    length: float
    least: float
    most: float
    dots: list
    text: str


class Bars(NamedTuple):
    """A drawing.

    Attributes:
        width, height (float): Its size.
        bars (list[Bar]): Its rows.
        start (float): Value at its left edge.
    """

    width: float
    height: float
    bars: list
    start: float


def draw_bars(rows: Sequence[dict]) -> Bars:
    """Lay out the rows of results.

    The axis does not begin at 0: what matters is how the rows differ. It
    begins below the least value, at a multiple of 5.

    Args:
        rows (Sequence[dict]): As in the results.
    """
    values = [value for row in rows for value in row['test']['values']]
    room = MARGIN * (max(values) - min(values)) + 1
    start = max(0, 5 * ((min(values) - room) // 5))
    end = max(values) + room
    unit = WIDTH / (end - start)

    def place(value: float) -> float:
        return round((value - start) * unit, 1)

    bars = []
    for number, row in enumerate(rows):
        test = row['test']
        bars.append(
            Bar(
                title=row['title'],
                top=number * ROW + ROW - BAR,
                length=place(test['mean']),
                least=place(test['least']),
                most=place(test['most']),
                dots=[place(value) for value in test['values']],
                text=f'{test["mean"]:.1f}',
            )
        )
    return Bars(WIDTH, ROW * len(rows) + 6, bars, start)
