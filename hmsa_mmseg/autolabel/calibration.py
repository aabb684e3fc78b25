"""How far confidence can be trusted, and from where on labels are kept.

``hits`` and ``pixels`` below are right pixels and all pixels of a labelled
split by the value of their confidence, int64 (256,); see
:mod:`hmsa_mmseg.datasets.confidence` for these values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hmsa_mmseg.datasets.confidence import LEVELS
from hmsa_mmseg.utils.confusion import divide

#: Bins of a reliability diagram, as in Guo et al., "On Calibration of Modern
#: Neural Networks" (https://arxiv.org/abs/1706.04599). Seventeen of the 255
#: steps make one of them: cutting off to eight bits moves no pixel into
#: another bin.
BINS = 15
#: A value stands for the confidences from it up to the next: their middle.
#: 255 stands for 1 alone.
CONFIDENCE = np.minimum(LEVELS + 0.5 / 255, 1)


class Reliability(NamedTuple):
    """Confidence against precision.

    Attributes:
        pixels (ndarray): int64 (15,), in each bin.
        confidence (ndarray): float64 (15,), mean in each bin, nan in those
            without pixels.
        precision (ndarray): float64 (15,), share of right pixels, likewise.
        error (float): Expected calibration error, 0 to 1: the mean over all
            pixels of the distance of both in their bin; nan without pixels.
        excess (float): Mean confidence less precision: above 0 where the
            teacher trusts itself too much.
    """

    pixels: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray
    error: float
    excess: float


def reliability(hits: np.ndarray, pixels: np.ndarray) -> Reliability:
    """Compare confidence with the share of right pixels, bin by bin."""
    bins = np.minimum(np.arange(256) // (255 // BINS), BINS - 1)
    count, sure, right = (
        np.bincount(bins, values, minlength=BINS)
        for values in (pixels, pixels * CONFIDENCE, hits)
    )
    gaps = np.abs(sure - right).sum()
    total = count.sum()
    return Reliability(
        count.astype(np.int64),
        divide(sure, count),
        divide(right, count),
        float(divide(gaps, total)),
        float(divide(sure.sum() - right.sum(), total)),
    )


def check_target(target: float) -> None:
    """Refuse what is no precision to aim at, with a ValueError."""
    if isinstance(target, bool) or not 0 < target <= 1:
        raise ValueError(
            f'target precision {target!r}; expected a number above 0, up to 1'
        )


def suggest_level(
    hits: np.ndarray, pixels: np.ndarray, target: float
) -> int | None:
    """Find where to begin to keep labels.

    The level that makes ``right - target * kept`` largest. Seen from above:
    the threshold is lowered as long as the pixels that it lets in, over some
    stretch, are right in a share of ``target`` or more. A rule for single
    levels would stop at the first that is worse by chance.

    Returns:
        int | None: Of equally good values the lowest that some pixel has;
        None if there are no pixels, or none are worth it.
    """
    check_target(target)
    gain = np.cumsum((hits - target * pixels)[::-1])[::-1]
    gain = np.where(pixels > 0, gain, -np.inf)
    # Rounding of the sums, of up to some 10 ** 12 pixels.
    slack = 1e-12 * pixels.sum()
    if gain.max() < -slack or not pixels.any():
        return None
    return int((gain >= gain.max() - slack).argmax())


def threshold_of(level: int) -> float:
    """Write the threshold that keeps from a value, 0 to 255, on.

    Of as few digits as possible, three at most: 0.5 keeps from
    128 / 255 = 0.50196 on.
    """
    for scale in (10, 100, 1000):
        threshold = np.floor(level / 255 * scale) / scale
        if level == 0 or threshold > LEVELS[level - 1]:
            return float(threshold)
    raise AssertionError('the steps are wider than 0.001')
