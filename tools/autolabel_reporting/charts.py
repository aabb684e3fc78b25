"""Lines and bars of the page, as coordinates of SVG.

All plots have the same frame: values 0 to 1 in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Frame of a plot, in units of its picture, which is 360 wide.
LEFT, TOP, WIDTH, HEIGHT = 44, 12, 300, 220
# Of the width, for the text of a mark.
_ROOM = 0.25


class Line(NamedTuple):
    """A curve to draw.

    Attributes:
        name (str): For people.
        key (str): Of its style.
        values (list[float | None]): One for each place.
    """

    name: str
    key: str
    values: list[float | None]


class Plot(NamedTuple):
    """Curves and vertical marks.

    Attributes:
        lines (list[tuple[str, str, str]]): Name, style and SVG path.
        marks (list[dict]): ``x``, ``text``, on which ``side`` it is, and in
            which ``row``, so that texts do not cover each other.
    """

    lines: list[tuple[str, str, str]]
    marks: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        lines: Sequence[Line],
        places: Sequence[float],
        marks: Mapping[float, str],
    ) -> Plot:
        """Find the coordinates.

        Args:
            lines (Sequence[Line]): The curves.
            places (Sequence[float]): 0 to 1, of their values.
            marks (Mapping[float, str]): Texts by place.
        """
        paths = [(one.name, one.key, _path(places, one)) for one in lines]
        found, order = [], sorted(marks)
        for before, place, after in zip(
            [0.0, *order], order, [*order[1:], 1.0]
        ):
            # Where there is room the text stands to the right.
            side = 'start' if after - place > _ROOM else 'end'
            row = int(side == 'end' and place - before < _ROOM)
            found.append(
                dict(x=x_of(place), text=marks[place], side=side, row=row)
            )
        return cls(paths, found)


def x_of(value: float) -> float:
    """Left to right."""
    return round(LEFT + WIDTH * value, 1)


def y_of(value: float) -> float:
    """Bottom to top."""
    return round(TOP + HEIGHT * (1 - value), 1)


def draw_bars(bins: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw a reliability diagram.

    Args:
        bins (Sequence[dict]): Of the report, of equal width.

    Returns:
        dict: ``bars``, of precision, and ``shares``, of all pixels.
    """
    width = WIDTH / len(bins)
    total = max(sum(one['pixels'] for one in bins), 1)
    bars, shares = [], []
    for i, one in enumerate(bins):
        share = one['pixels'] / total
        box = dict(x=round(LEFT + i * width + 1, 1), width=round(width - 2, 1))
        text = (
            f'{100 * i / len(bins):.0f} to {100 * (i + 1) / len(bins):.0f} %'
        )
        if one['pixels']:
            precision = one['precision']
            bars.append(
                dict(
                    box,
                    y=y_of(precision),
                    height=round(HEIGHT * precision, 1),
                    mark=y_of(one['confidence']),
                    text=f'confidence {text}: {100 * precision:.1f} % right, '
                    f'{100 * share:.1f} % of the pixels',
                )
            )
        shares.append(dict(box, share=share, text=text))
    return dict(bars=bars, shares=shares)


def histogram_path(shares: Sequence[float | None]) -> str:
    """Draw a histogram of 90 x 22 units; empty without pixels."""
    if not shares or shares[0] is None:
        return ''
    step, most = 90 / len(shares), max(shares)
    bar = f'{step - 1:.1f}'
    parts = []
    for i, share in enumerate(shares):
        # What is there is seen, however little.
        height = max(22 * share / most, 1 if share else 0)
        if height:
            side = f'{height:.1f}'
            parts.append(f'M{i * step:.1f} 22v-{side}h{bar}v{side}z')
    return ''.join(parts)


def _path(places: Sequence[float], line: Line) -> str:
    points = [
        f'{x_of(place)} {y_of(value)}'
        for place, value in zip(places, line.values)
        if value is not None
    ]
    return f'M{"L".join(points)}' if points else ''
