"""Coarse polygons in the manner of Cityscapes' gtCoarse.

An annotator with a few minutes per image draws polygons of few corners well
inside of things, and leaves out what is small; the rest is unlabelled. Here
every connected region of a label is eroded, regions that are then small are
dropped, and the outlines of the others are simplified. One rule for all
classes: which of them suffer is up to their shapes.

Shape shorthand in this module:
    H, W: image size.
"""

from __future__ import annotations

import cv2
import numpy as np

#: Distance in px that a polygon keeps from the border of its region.
MARGIN = 3
#: How far in px a polygon may be from the eroded outline; below
#: :data:`MARGIN`, so that it does not leave the region.
TOLERANCE = 2.0
#: Smallest area in px of an eroded region that gets a polygon.
MIN_AREA = 40
#: Value of pixels without a polygon: Cityscapes' label id 'unlabeled'.
UNLABELLED = 0


def coarse_polygons(label_ids: np.ndarray) -> np.ndarray:
    """Draw the coarse labels of an image.

    Args:
        label_ids (np.ndarray): True label ids, uint8 (H, W).

    Returns:
        np.ndarray: Label ids, uint8 (H, W): the true one inside of polygons,
        :data:`UNLABELLED` elsewhere.
    """
    coarse = np.full_like(label_ids, UNLABELLED)
    side = 2 * MARGIN + 1
    kernel = np.ones((side, side), np.uint8)
    for value in np.unique(label_ids):
        # The border of the image is no border of a thing: OpenCV does not
        # erode from there.
        inside = cv2.erode((label_ids == value).astype(np.uint8), kernel)
        count, regions = cv2.connectedComponents(inside, connectivity=4)
        for number in range(1, count):
            region = (regions == number).astype(np.uint8)
            if region.sum() >= MIN_AREA:
                _draw(coarse, region, int(value))
    return coarse


def _draw(coarse: np.ndarray, region: np.ndarray, value: int) -> None:
    """Draw the simplified outline of one region, with its holes."""
    outlines, _ = cv2.findContours(
        region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    polygons = [cv2.approxPolyDP(o, TOLERANCE, True) for o in outlines]
    polygons = [polygon for polygon in polygons if len(polygon) > 2]
    # All at once: what two of them enclose is a hole.
    drawn = np.zeros_like(region)
    cv2.fillPoly(drawn, polygons, 1)
    coarse[drawn > 0] = value
