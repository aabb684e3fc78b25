"""Names of classes on a picture of classes, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .colours import text_colour

FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Height of letters as a part of the image's shorter side: 26 px of 1024.
RELATIVE_HEIGHT = 1 / 40
#: The lowest that is readable, in px.
MIN_HEIGHT = 8
#: A place must be this high, as a part of the text's height, and as wide.
MIN_ROOM = 0.75
#: Rows of the grid on which places are looked for.
SEARCH_ROWS = 256


class Text(NamedTuple):
    """How large text is drawn.

    ``scale`` is OpenCV's; lines are so thick, with a halo so wide, in px.
    """

    scale: float
    thickness: int
    halo: int

    @classmethod
    def for_image(cls, size: Sequence[int]) -> Text:
        """Text for a picture of size (H, W); it grows with the picture."""
        height = max(MIN_HEIGHT, min(size) * RELATIVE_HEIGHT)
        thickness = max(1, round(height / 9))
        scale = cv2.getFontScaleFromHeight(FONT, round(height), thickness)
        return cls(scale, thickness, max(1, round(height / 8)))

    def size(self, text: str) -> tuple[int, int]:
        """Width and height of a text above its base line, px."""
        size, _ = cv2.getTextSize(text, FONT, self.scale, self.thickness)
        return size

    def draw(
        self,
        picture: np.ndarray,
        text: str,
        origin: tuple[int, int],
        colour: Sequence[int],
    ) -> None:
        """Draw in place; ``origin`` is (x, y) of the left end of the base."""
        ink = [int(channel) for channel in colour]
        look = (FONT, self.scale, ink, self.thickness, cv2.LINE_AA)
        cv2.putText(picture, text, origin, *look)

    def draw_halo(
        self,
        picture: np.ndarray,
        text: str,
        origin: tuple[int, int],
        colour: Sequence[int],
    ) -> None:
        """Draw what is around a text, likewise."""
        # Not thicker lines: OpenCV 5 does not draw them.
        width, height = self.size(text)
        around = self.thickness + self.halo
        left = max(0, origin[0] - around)
        top = max(0, origin[1] - height - around)
        # Letters may reach below the base line.
        part = picture[
            top : origin[1] + height // 2 + around,
            left : origin[0] + width + around,
        ]
        stencil = np.zeros(part.shape[:2], np.uint8)
        self.draw(stencil, text, (origin[0] - left, origin[1] - top), [255])
        diameter = 2 * self.halo + 1
        kernel = cv2.getStructuringElement(
            cv2.MORPH_ELLIPSE, (diameter, diameter)
        )
        opacity = cv2.dilate(stencil, kernel)[..., None] / 255
        part[:] = np.rint(part * (1 - opacity) + opacity * colour)


def find_place(
    classes: np.ndarray, index: int, aspect: float = 1.0
) -> tuple[int, int, float] | None:
    """Find the middle of the largest rectangle in a class's largest region.

    It is ``aspect`` times as wide as high, and looked for on a grid of about
    :data:`SEARCH_ROWS` rows, which may miss what is narrower than its steps.
    Regions are connected along edges and corners.

    Returns:
        tuple | None: x and y of a pixel of the class, and about the height of
        a rectangle around it that lies in the region; None if none is found.
    """
    height, width = classes.shape
    # A square of this grid is a rectangle of the picture: one search for
    # texts of any length, and on few pixels.
    step_y = max(1, round(height / SEARCH_ROWS))
    step_x = max(1, round(step_y * aspect))
    first_y, first_x = step_y // 2, min(step_x // 2, width - 1)
    grid = (classes[first_y::step_y, first_x::step_x] == index).astype('u1')
    _, regions, stats, _ = cv2.connectedComponentsWithStats(grid)
    if len(stats) == 1:  # the background alone
        return None
    region = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    # Beyond the picture there is no room either.
    grid = np.pad((regions == region).astype('u1'), 1)
    distance = cv2.distanceTransform(grid, cv2.DIST_C, 3)
    # Of places that are as good, the one in their middle.
    best = np.argwhere(distance == distance.max())
    offsets = np.square(best - best.mean(axis=0)).sum(axis=1)
    row, col = best[offsets.argmin()]
    room = (2 * distance[row, col] - 1) * step_y
    x, y = first_x + (col - 1) * step_x, first_y + (row - 1) * step_y
    return int(x), int(y), float(room)


def draw_class_labels(
    picture: np.ndarray,
    classes: np.ndarray,
    names: Sequence[str],
    palette: np.ndarray,
) -> None:
    """Write the name of each class into its largest region, in place.

    Letters are black or white, whichever is read more easily on the colour of
    the class, which surrounds them. A class without room for its name gets
    none. OpenCV draws what is not ASCII as question marks.
    """
    text = Text.for_image(classes.shape)
    height, width = classes.shape
    for index, (name, colour) in enumerate(zip(names, palette)):
        if not name:
            continue
        text_width, text_height = text.size(name)
        found = find_place(classes, index, max(1.0, text_width / text_height))
        if found is None or found[2] < MIN_ROOM * text_height:
            continue
        x, y, _ = found
        # Kept within the picture, with its halo.
        left = min(x - text_width // 2, width - text_width - text.halo)
        base = min(y + text_height // 2, height - 2 * text.halo)
        origin = max(left, text.halo), max(base, text_height + text.halo)
        text.draw_halo(picture, name, origin, colour)
        text.draw(picture, name, origin, text_colour(colour))
