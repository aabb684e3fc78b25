"""Colours of classes, scales and maps, and what can be read on them.

Shape shorthand in this module:
    H, W: image size, K: classes, S: scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
#: Vermillion and a darker blue of the palette of Okabe and Ito, which people
#: with any of the common kinds of colour blindness tell apart ("Color
#: Universal Design", 2002, https://jfly.uni-koeln.de/color/).
WRONG: Colour = (213, 94, 0)
IGNORED: Colour = (0, 57, 89)


def as_palette(
    palette: Sequence[Sequence[int]] | None, num_classes: int
) -> np.ndarray:
    """Check the colours of classes, RGB, 0 to 255, and make them uint8 (K, 3).

    For none at all it makes the same as ``BaseSegDataset._update_palette``.
    A ValueError is raised if there are too few or they are no colours.
    """
    if palette is None or len(palette) == 0:
        rng = np.random.RandomState(42)
        palette = rng.randint(0, 255, size=(num_classes, 3))
    colours = np.asarray(palette)
    if (
        colours.ndim != 2
        or colours.shape[1] != 3
        or len(colours) < num_classes
        or not np.issubdtype(colours.dtype, np.integer)
        or colours.min() < 0
        or colours.max() > 255
    ):
        raise ValueError(
            f'palette must hold a colour (R, G, B), 0 to 255, for each of '
            f'{num_classes} classes; got {len(colours)}: {palette!r}'
        )
    return colours[:num_classes].astype(np.uint8)


def paint(classes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Give each pixel the colour of its class; those of none are black.

    From integers (H, W) and colours, uint8 (K, 3), to uint8 (H, W, 3).
    """
    none = len(palette)
    colours = np.vstack([palette, np.zeros((max(1, 256 - none), 3), 'u1')])
    # Negative numbers become large ones, which one more colour is for.
    index = np.minimum(classes.astype(np.int64).view(np.uint64), none)
    if none > 255:
        return colours[index]
    # Several times faster.
    return cv2.applyColorMap(index.astype(np.uint8), colours[:, None])


def heat(values: np.ndarray) -> np.ndarray:
    """Colour numbers from dark blue (0) to yellow (1): uint8 (H, W, 3).

    In OpenCV's copy of cividis, which looks the same with and without a
    red-green colour blindness and whose lightness grows evenly (Nunez,
    Anderton and Renslow, https://doi.org/10.1371/journal.pone.0199239).
    """
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)
    return np.ascontiguousarray(colours[..., ::-1])


def scale_palette(num_scales: int) -> np.ndarray:
    """Colours of scales, uint8 (S, 3), from dark to bright.

    Evenly spaced levels of viridis (https://bids.github.io/colormap/): of
    growing lightness, so that they are told apart, and keep their order, with
    any kind of colour blindness and in grey.
    """
    levels = np.rint(np.linspace(0, 255, num_scales)).astype(np.uint8)
    colours = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(colours[:, 0, ::-1])


def luminance(colour: Sequence[int]) -> float:
    """Relative luminance of an sRGB colour, 0 (black) to 1 (white).

    WCAG 2.1, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance.
    """
    channels = np.asarray(colour, float) / 255
    # 0.04045 is the standard's (IEC 61966-2-1); WCAG rounds it to 0.03928,
    # which makes no difference to 8 bits.
    linear = np.where(
        channels <= 0.04045,
        channels / 12.92,
        ((channels + 0.055) / 1.055) ** 2.4,
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: Sequence[int], second: Sequence[int]) -> float:
    """Contrast ratio of two colours, 1 (none) to 21, of WCAG 2.1."""
    lighter, darker = sorted(map(luminance, (first, second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def text_colour(background: Sequence[int]) -> Colour:
    """Black or white, whichever is read more easily.

    Its contrast is 4.58 or more, the square root of 21: more than the 4.5
    that WCAG 2.1 asks for (level AA).
    """
    return max(BLACK, WHITE, key=lambda text: contrast(text, background))
