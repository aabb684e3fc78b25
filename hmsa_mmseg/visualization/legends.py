"""Strips below a picture that say what its colours mean.

Shape shorthand in this module:
    H, W: image size, T: height of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .class_labels import Text
from .colours import BLACK, WHITE, heat


def with_legend(
    picture: np.ndarray, entries: Sequence[tuple[str, Sequence[int]]]
) -> np.ndarray:
    """Put a legend below a picture.

    Args:
        picture (ndarray): RGB, uint8 (H, W, 3).
        entries (Sequence[tuple]): Texts and their colours.

    Returns:
        ndarray: uint8 (H + T, W, 3); the first H rows are the picture. An
        entry that has no room in a row begins another.
    """
    text = Text.for_image(picture.shape[:2])
    margin, width = text.size('0')[1] // 2, picture.shape[1]
    strips = [_blank(text, width)]
    left = margin
    for name, colour in entries:
        text_width, size = text.size(name)
        right = left + size + margin + text_width
        if right > width and left > margin:
            strips.append(_blank(text, width))
            left, right = margin, right - left + margin
        strip = strips[-1]
        strip[margin : margin + size, left : left + size] = colour
        text.draw(strip, name, (left + size + margin, margin + size), BLACK)
        left = right + 2 * margin
    return np.vstack([picture, *strips])


def with_colour_bar(picture: np.ndarray) -> np.ndarray:
    """Put the colours of :func:`heat` from 0 to 1 below a picture.

    Args:
        picture (ndarray): RGB, uint8 (H, W, 3).

    Returns:
        ndarray: uint8 (H + T, W, 3); the first H rows are the picture.
    """
    text = Text.for_image(picture.shape[:2])
    width = picture.shape[1]
    strip = _blank(text, width)
    digit, size = text.size('0')
    margin = size // 2
    bar = slice(digit + 2 * margin, width - digit - 2 * margin)
    length = len(range(width)[bar])
    if length > 1:
        strip[margin : margin + size, bar] = heat(
            np.linspace(0, 1, length)[None]
        )
    for digits, left in (('0', margin), ('1', width - digit - margin)):
        text.draw(strip, digits, (left, margin + size), BLACK)
    return np.vstack([picture, strip])


def _blank(text: Text, width: int) -> np.ndarray:
    size = text.size('0')[1]
    return np.full((size + 2 * (size // 2), width, 3), WHITE, np.uint8)
