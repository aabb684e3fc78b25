"""Counts of auto-labels, and what follows from them.

Labels are read once, into a few tables of whole numbers of a fixed size, so
that memory does not grow with the number of images: with 255 classes and ten
thresholds they take 6 MB. Confidence is counted at each of its 256 values;
what is said of a threshold is exact.

Shape shorthand in this module:
    H, W: image size, K: classes, T: thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hmsa_mmseg.datasets.confidence import check_threshold, is_kept
from hmsa_mmseg.utils.confusion import divide, joint_counts

#: Where coverage and precision are given.
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: Value of a true label that says nothing.
IGNORE = 255
#: Values of confidence.
LEVELS = 256


class TruthCounts(NamedTuple):
    """Auto-labels counted against other labels, where those say something.

    Attributes:
        confusion (ndarray): int64 (K, K, T): true class, class given, and the
            highest of the thresholds that the confidence reaches.
        hits (ndarray): int64 (K, 256): right pixels, by class and value of
            the confidence.
        given (ndarray): int64 (K, 256): all pixels, by the class given.
    """

    confusion: np.ndarray
    hits: np.ndarray
    given: np.ndarray

    def __add__(self, other: TruthCounts) -> TruthCounts:
        """Count the pixels of both."""
        return TruthCounts(*(a + b for a, b in zip(self, other)))

    @classmethod
    def empty(cls, num_classes: int, num_thresholds: int) -> TruthCounts:
        """Count nothing."""
        confusion = (num_classes, num_classes, num_thresholds)
        shapes = (confusion, *[(num_classes, LEVELS)] * 2)
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def at(self, index: int) -> np.ndarray:
        """Confusion of the pixels that a threshold keeps, int64 (K, K)."""
        return self.confusion[..., index:].sum(-1)


def all_thresholds(*more: float) -> tuple[float, ...]:
    """Sort :data:`THRESHOLDS` and some more; the lowest is 0."""
    return tuple(sorted({*THRESHOLDS, *map(check_threshold, more)}))


def count_against(
    truth: np.ndarray,
    label: np.ndarray,
    confidence: np.ndarray,
    num_classes: int,
    thresholds: Sequence[float],
) -> TruthCounts:
    """Count pixels by true class, class given and confidence.

    Args:
        truth (ndarray): uint8 (H, W), classes and :data:`IGNORE`.
        label (ndarray): uint8 (H, W), classes only.
        confidence (ndarray): uint8 (H, W), as in
            :mod:`hmsa_mmseg.datasets.confidence`.
        num_classes (int): K.
        thresholds (Sequence[float]): T, rising, the first of them 0.

    Returns:
        TruthCounts: Without the pixels whose true label says nothing.

    Raises:
        ValueError: If the sizes differ.
    """
    if not truth.shape == label.shape == confidence.shape:
        raise ValueError(
            f'expected one size, got {truth.shape}, {label.shape} and '
            f'{confidence.shape}'
        )
    known = truth != IGNORE
    true, given, value = truth[known], label[known], confidence[known]
    reached = np.sum([is_kept(t) for t in thresholds], 0) - 1
    right = true == given
    return TruthCounts(
        joint_counts(
            (true, given, reached.astype(np.uint8)[value]),
            (num_classes, num_classes, len(thresholds)),
        ),
        joint_counts((given[right], value[right]), (num_classes, LEVELS)),
        joint_counts((given, value), (num_classes, LEVELS)),
    )


def kept_counts(counts: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Sum up what thresholds keep of counts (..., 256): (..., T)."""
    keep = np.array([is_kept(t) for t in thresholds], dtype=counts.dtype)
    return counts @ keep.T


def coverage(counts: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Share of the pixels that thresholds keep, float64 (..., T)."""
    return divide(kept_counts(counts, thresholds), counts.sum(-1)[..., None])
