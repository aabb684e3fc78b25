"""How far confidence can be trusted, and from where on labels are kept.

``hits`` and ``pixels`` below are right pixels and all pixels of a labelled
split by the value of their confidence, int64 (256,); see
:mod:`hmsa_mmseg.datasets.confidence` for these values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hmsa_mmseg.datasets.confidence import LEVELS

from .statistics import divide

#: Bins of a reliability diagram, as in Guo et al., "On Calibration of Modern
#: Neural Networks" (https://arxiv.org/abs/1706.04599). Seventeen of the 255
#: steps make one of them: cutting off to eight bits moves no pixel into
#: another bin.
BINS = 15
#: A value stands for the confidences from it up to the next: their middle.
#: 255 stands for 1 alone.
CONFIDENCE = np.minimum(LEVELS + 0.5 / 255, 1)
#: Resamples of the images for the range of the suggestion.
RESAMPLES = 400


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


class Suggestion(NamedTuple):
    """A threshold of confidence.

    Attributes:
        level (int): The lowest value that is kept, 0 to 255.
        threshold (float): That keeps it, with as few digits as possible.
        low (float): 2.5 % of the resamples of the images suggest less.
        high (float): 2.5 % suggest more.
    """

    level: int
    threshold: float
    low: float
    high: float


def reliability(hits: np.ndarray, pixels: np.ndarray) -> Reliability:
    """Compare confidence with the share of right pixels, bin by bin."""
    bins = np.minimum(np.arange(256) // (255 // BINS), BINS - 1)

    def binned(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins, values, minlength=BINS)

    count = binned(pixels)
    confidence = divide(binned(pixels * CONFIDENCE), count)
    precision = divide(binned(hits), count)
    gaps = np.nan_to_num(np.abs(confidence - precision))
    total = np.float64(pixels.sum())
    excess = (pixels * CONFIDENCE).sum() - hits.sum()
    return Reliability(
        count.astype(np.int64),
        confidence,
        precision,
        float(divide((gaps * count).sum(), total)),
        float(divide(excess, total)),
    )


def check_target(target: float) -> None:
    """Refuse what is no precision to aim at.

    Raises:
        ValueError: If it is not a number above 0, up to 1.
    """
    if isinstance(target, bool) or not 0 < target <= 1:
        raise ValueError(
            f'target precision {target!r}; expected a number above 0, up to 1'
        )


def suggest_level(
    hits: np.ndarray, pixels: np.ndarray, target: float
) -> np.ndarray:
    """Find where to begin to keep labels.

    The level that makes ``right - target * kept`` largest. Seen from above:
    the threshold is lowered as long as the pixels that it lets in, over some
    stretch, are right in a share of ``target`` or more. A rule for single
    levels would stop at the first that is worse by chance.

    Args:
        hits (ndarray): (..., 256).
        pixels (ndarray): (..., 256).
        target (float): Above 0, up to 1.

    Returns:
        ndarray: Integers (...): of equally good values the lowest that some
        pixel has; 256 where no pixels are worth it.

    Raises:
        ValueError: If ``target`` is not in its range.
    """
    check_target(target)
    tail = (hits - target * pixels)[..., ::-1]
    gain = np.cumsum(tail, axis=-1)[..., ::-1]
    gain = np.where(pixels > 0, gain, -np.inf)
    most = gain.max(-1, keepdims=True)
    # Rounding of the sums, of up to some 10 ** 12 pixels.
    slack = 1e-12 * pixels.sum(-1, keepdims=True)
    level = (gain >= most - slack).argmax(-1)
    return np.where((most >= -slack)[..., 0], level, 256)


def suggest_threshold(
    hits: np.ndarray, pixels: np.ndarray, target: float
) -> Suggestion | None:
    """Suggest a threshold, and say how sure that is.

    Args:
        hits (ndarray): int64 (N, 256), of each of N images.
        pixels (ndarray): int64 (N, 256).
        target (float): As of :func:`suggest_level`.

    Returns:
        Suggestion | None: None if there are no pixels, or none are worth it.
        The range is of a bootstrap over images, whose pixels are too much
        alike to be drawn one by one. It is the same each time.
    """
    if not pixels.sum():
        return None
    level = int(suggest_level(hits.sum(0), pixels.sum(0), target))
    if level > 255:
        return None
    rng = np.random.default_rng(0)
    images = len(hits)
    times = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES)
    # Whole numbers below 2 ** 53 are exact; products of floats are faster.
    drawn = (times.astype(float) @ table for table in (hits, pixels))
    levels = suggest_level(*drawn, target)
    low, high = np.quantile(levels, (0.025, 0.975), method='nearest')
    return Suggestion(
        level, *(threshold_of(min(int(v), 255)) for v in (level, low, high))
    )


def threshold_of(level: int) -> float:
    """Write the threshold that keeps from one of 256 values on.

    Args:
        level (int): 0 to 255.

    Returns:
        float: Of as few digits as possible, three at most: 0.5 keeps from
        128 / 255 = 0.50196 on.
    """
    for scale in (10, 100, 1000):
        threshold = np.floor(level / 255 * scale) / scale
        if level == 0 or threshold > LEVELS[level - 1]:
            return float(threshold)
    raise AssertionError('the steps are wider than 0.001')
