"""Scores as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Of the range of all values, left free at each end.
MARGIN = 0.08


class Bar(NamedTuple):
    """One bar; lengths in percent of the axis.

    Attributes:
        title (str): Name of the row.
        length (float): The mean.
        least, most (float): Ends of the seeds' range.
        dots (list[float]): Place of each seed.
        text (str): The mean.
    """

    title: str
    length: float
    least: float
    most: float
    dots: list
    text: str


class Bars(NamedTuple):
    """All of them.

    Attributes:
        bars (list[Bar]): In the order of the rows.
        start (float): mIoU at the left end of the axis.
    """

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
    unit = 100 / (max(values) + room - start)

    def place(value: float) -> float:
        return round((value - start) * unit, 2)

    bars = []
    for row in rows:
        test = row['test']
        bars.append(
            Bar(
                title=row['title'],
                length=place(test['mean']),
                least=place(test['least']),
                most=place(test['most']),
                dots=[place(value) for value in test['values']],
                text=f'{test["mean"]:.1f}',
            )
        )
    return Bars(bars, start)
