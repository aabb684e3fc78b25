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


def place_labels(
    axes: Any,
    texts: Sequence[tuple[str, float, float, str]],
    marks: Sequence[tuple[float, float]],
) -> list[Any]:
    """Write a label at each point, clear of other labels and all marks.

    Args:
        axes (matplotlib.axes.Axes): Of a figure whose layout is done.
        texts (Sequence[tuple]): Label, x, y and colour.
        marks (Sequence[tuple[float, float]]): All points drawn, in the units
            of the axes.

    Returns:
        list: The texts, as artists. If there is no free place for one, it
        takes the place that overlaps least.
    """
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    taken = []
    for x, y in axes.transData.transform(list(marks) or [(1, 1)]):
        taken.append(
            Bbox.from_extents(x - _MARK, y - _MARK, x + _MARK, y + _MARK)
        )
    inside = axes.get_window_extent(renderer)
    artists = []
    for label, x, y, colour in texts:
        artist = axes.annotate(
            label,
            (x, y),
            (0, 0),
            textcoords='offset points',
            color=colour,
            fontsize=9,
            ha='center',
            va='center',
            zorder=4,
        )
        box = artist.get_window_extent(renderer)
        best = None
        for distance in _DISTANCES:
            for i in range(_DIRECTIONS):
                angle = 2 * math.pi * i / _DIRECTIONS
                # So far that the nearest edge has this distance.
                dx = math.cos(angle) * (distance * pixels + box.width / 2)
                dy = math.sin(angle) * (distance * pixels + box.height / 2)
                there = box.translated(dx, dy).padded(_GAP)
                cost = sum(_overlap(there, other) for other in taken)
                cost += there.width * there.height - _overlap(there, inside)
                if best is None or cost < best[0] - 1e-6:
                    best = (cost, dx, dy, there, distance)
            if best[0] < 1e-3:
                break
        _, dx, dy, there, distance = best
        artist.set_position((dx / pixels, dy / pixels))
        if distance >= _LINE_FROM:
            axes.annotate(
                '',
                (x, y),
                (dx / pixels, dy / pixels),
                textcoords='offset points',
                arrowprops=dict(
                    arrowstyle='-', color=colour, linewidth=0.6, shrinkB=5
                ),
                zorder=1,
            )
        taken.append(there)
        artists.append(artist)
    return artists


def _overlap(one: Any, other: Any) -> float:
    """Pixels that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0) * max(height, 0)
