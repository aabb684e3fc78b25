"""Where lines and bars are in the plots of ``charts.html.j2``.

All plots have the same frame: values 0 to 1 in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Frame of a plot, in units of its picture, which is 360 wide.
LEFT, TOP, WIDTH, HEIGHT = 44, 12, 300, 220
# Of the width, for the text of a mark.
_ROOM = 0.25


def x_of(value: float) -> float:
    """Left to right."""
    return round(LEFT + WIDTH * value, 1)


def y_of(value: float) -> float:
    """Bottom to top."""
    return round(TOP + HEIGHT * (1 - value), 1)


def curve(places: Sequence[float], values: Sequence[float | None]) -> str:
    """Path of a curve; what is None is left out."""
    points = [
        f'{x_of(place)} {y_of(value)}'
        for place, value in zip(places, values)
        if value is not None
    ]
    return f'M{"L".join(points)}' if points else ''


def marks(texts: Mapping[float, str]) -> list[dict[str, Any]]:
    """Place texts at vertical lines so that they do not cover each other.

    Texts are by place; the result has ``x``, ``text``, on which ``side`` it
    is and in which ``row``, from left to right.
    """
    found, order = [], sorted(texts)
    for before, place, after in zip([0.0, *order], order, [*order[1:], 1.0]):
        # Where there is room the text stands to the right.
        side = 'start' if after - place > _ROOM else 'end'
        row = int(side == 'end' and place - before < _ROOM)
        found.append(
            dict(x=x_of(place), text=texts[place], side=side, row=row)
        )
    return found


def bars(bins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add to bins of equal width where their bars are in a diagram.

    That is ``x`` and ``width``, with the ``share`` of the pixels and a
    ``title``.
    """
    width, count = WIDTH / len(bins), len(bins)
    total = max(sum(one['pixels'] for one in bins), 1)
    return [
        dict(
            one,
            x=round(LEFT + i * width + 1, 1),
            width=round(width - 2, 1),
            share=one['pixels'] / total,
            title=f'{100 * i / count:.0f} to {100 * (i + 1) / count:.0f} %',
        )
        for i, one in enumerate(bins)
    ]


def histogram(shares: Sequence[float | None] | None) -> str:
    """Path of a histogram of 90 x 22 units; empty without pixels."""
    if not shares or shares[0] is None:
        return ''
    step, most = 90 / len(shares), max(shares)
    bar = f'{step - 1:.1f}'
    parts = []
    for i, share in enumerate(shares):
        if share:
            # What is there is seen, however little.
            side = f'{max(22 * share / most, 1):.1f}'
            parts.append(f'M{i * step:.1f} 22v-{side}h{bar}v{side}z')
    return ''.join(parts)
