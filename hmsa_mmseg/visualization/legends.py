"""Strips below a picture, RGB uint8 (H, W, 3), that explain its colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .class_labels import Text
from .colours import BLACK, WHITE, heat


def with_legend(
    picture: np.ndarray, entries: Sequence[tuple[str, Sequence[int]]]
) -> np.ndarray:
    """Put texts and their colours below a picture.

    An entry that has no room in a row begins another.
    """
    text, size, margin, blank = _strip(picture)
    width, left, strips = picture.shape[1], margin, [blank.copy()]
    for name, colour in entries:
        room = size + margin + text.size(name)[0]
        if left + room > width and left > margin:
            strips.append(blank.copy())
            left = margin
        strip = strips[-1]
        strip[margin : margin + size, left : left + size] = colour
        text.draw(strip, name, (left + size + margin, margin + size), BLACK)
        left += room + 2 * margin
    return np.vstack([picture, *strips])


def with_colour_bar(picture: np.ndarray) -> np.ndarray:
    """Put the colours of :func:`heat` from 0 to 1 below a picture."""
    text, size, margin, strip = _strip(picture)
    digit, width = text.size('0')[0], picture.shape[1]
    bar = strip[margin : margin + size, digit + 2 * margin :]
    bar = bar[:, : max(width - 2 * digit - 4 * margin, 0)]
    if bar.shape[1] > 1:
        bar[:] = heat(np.linspace(0, 1, bar.shape[1])[None])
    for digits, left in (('0', margin), ('1', width - digit - margin)):
        text.draw(strip, digits, (left, margin + size), BLACK)
    return np.vstack([picture, strip])


def _strip(picture: np.ndarray) -> tuple[Text, int, int, np.ndarray]:
    """Text, its height, the margin around it, and an empty strip."""
    text = Text.for_image(picture.shape[:2])
    size = text.size('0')[1]
    height = size + 2 * (size // 2)
    strip = np.full((height, picture.shape[1], 3), WHITE, np.uint8)
    return text, size, size // 2, strip
