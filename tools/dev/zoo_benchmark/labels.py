"""Labels of points in a plot that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Points of an inch from a mark to its label's nearest edge, nearest first.
_DISTANCES = (7, 14, 24, 36, 50, 66, 84)
_DIRECTIONS = 16
# Beyond this a line leads from the label to its mark.
_LINE_FROM = 14
# Pixels: half of a mark, and what stays free around a text.
_MARK, _GAP = 8, 1
_COLOUR = '#222222'
# Places along a line that a label had better not cover, and half their side
# in pixels; small, so that a label covers a line rather than a mark.
_ON_LINE, _DOT = 40, 1

Place = tuple[float, float]


def place_labels(
    axes: Any,
    texts: Sequence[tuple[str, float, float]],
    marks: Sequence[Place],
    lines: Sequence[tuple[Place, Place]] = (),
) -> list[Any]:
    """Write a label at each point, clear of other labels and all marks.

    Args:
        axes (matplotlib.axes.Axes): Of a figure whose layout is done.
        texts (Sequence[tuple]): Label, x and y.
        marks (Sequence[tuple[float, float]]): All points drawn, in the units
            of the axes.
        lines (Sequence[tuple]): Ends of lines, likewise, which labels avoid
            where they can.

    Returns:
        list: The texts, as artists. If there is no free place for one, it
        takes the place that overlaps least.
    """
    from matplotlib.patheffects import withStroke

    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    taken = [*_boxes(axes, marks, _MARK), *_line_boxes(axes, lines)]
    artists = []
    for label, x, y in texts:
        artist = axes.annotate(
            label,
            (x, y),
            (0, 0),
            textcoords='offset points',
            color=_COLOUR,
            fontsize=9,
            ha='center',
            va='center',
            zorder=4,
            path_effects=[withStroke(linewidth=2, foreground='white')],
        )
        box = artist.get_window_extent(renderer)
        dx, dy, there, distance = _best_place(box, taken, inside, pixels)
        offset = (dx / pixels, dy / pixels)
        artist.set_position(offset)
        if distance >= _LINE_FROM:
            axes.annotate(
                '',
                (x, y),
                offset,
                textcoords='offset points',
                arrowprops=dict(
                    arrowstyle='-', color=_COLOUR, linewidth=0.6, shrinkB=5
                ),
                zorder=1,
            )
        taken.append(there)
        artists.append(artist)
    return artists


def _best_place(
    box: Any, taken: Sequence[Any], inside: Any, pixels: float
) -> tuple[float, float, Any, float]:
    """Shift of a box in pixels, the box there, and its distance in points."""
    best, least = None, math.inf
    for distance in _DISTANCES:
        for i in range(_DIRECTIONS):
            angle = 2 * math.pi * i / _DIRECTIONS
            # So far that the nearest edge has this distance.
            dx = math.cos(angle) * (distance * pixels + box.width / 2)
            dy = math.sin(angle) * (distance * pixels + box.height / 2)
            there = box.translated(dx, dy).padded(_GAP)
            cost = sum(_overlap(there, other) for other in taken)
            cost += there.width * there.height - _overlap(there, inside)
            if cost < least - 1e-6:
                best, least = (dx, dy, there, distance), cost
        if least < 1e-3:
            break
    return best


def _boxes(axes: Any, places: Sequence[Place], half: float) -> list[Any]:
    """Squares around places, in pixels."""
    from matplotlib.transforms import Bbox

    if not places:
        return []
    return [
        Bbox.from_extents(x - half, y - half, x + half, y + half)
        for x, y in axes.transData.transform(list(places))
    ]


def _line_boxes(axes: Any, lines: Sequence[tuple[Place, Place]]) -> list[Any]:
    """Dots along lines, which are straight on the screen."""
    dots = []
    for ends in lines:
        (x0, y0), (x1, y1) = axes.transData.transform(list(ends))
        shares = [i / _ON_LINE for i in range(_ON_LINE + 1)]
        between = [(x0 + s * (x1 - x0), y0 + s * (y1 - y0)) for s in shares]
        back = axes.transData.inverted().transform(between)
        dots += _boxes(axes, [tuple(place) for place in back], _DOT)
    return dots


def _overlap(one: Any, other: Any) -> float:
    """Pixels that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0) * max(height, 0)
