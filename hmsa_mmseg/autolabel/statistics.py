"""Counts of auto-labels, and what follows from them.

Labels are read once, into a few tables of whole numbers of a fixed size, so
that memory does not grow with the number of images: with 255 classes and ten
thresholds they take 7 MB. Confidence is counted at each of its 256 values;
what is said of a threshold is exact.

Shape shorthand in this module:
    H, W: image size, K: classes, T: thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hmsa_mmseg.datasets.confidence import check_threshold, is_kept

#: Where coverage and precision are given.
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: Value of a true label that says nothing.
IGNORE = 255
# Of 256 values of confidence.
LEVELS = 256
# Pixels at a time: temporary arrays stay below some 30 MB.
_STRIP = 1 << 20


class TruthCounts(NamedTuple):
    """Auto-labels counted against other labels, where those say something.

    Attributes:
        confusion (ndarray): int64 (K, K, T): true class, class given, and the
            highest of the thresholds that the confidence reaches.
        hits (ndarray): int64 (K, 256): right pixels, by class and value of
            the confidence.
        given (ndarray): int64 (K, 256): all pixels, by the class given.
        true (ndarray): int64 (K, 256): all pixels, by the true class.
    """

    confusion: np.ndarray
    hits: np.ndarray
    given: np.ndarray
    true: np.ndarray

    def __add__(self, other: TruthCounts) -> TruthCounts:
        """Count the pixels of both."""
        return TruthCounts(*(a + b for a, b in zip(self, other)))

    @classmethod
    def empty(cls, num_classes: int, num_thresholds: int) -> TruthCounts:
        """Count nothing."""
        tables = (np.zeros((num_classes, LEVELS), np.int64) for _ in range(3))
        shape = (num_classes, num_classes, num_thresholds)
        return cls(np.zeros(shape, np.int64), *tables)


def all_thresholds(*more: float) -> tuple[float, ...]:
    """Sort :data:`THRESHOLDS` and some more; the lowest is 0."""
    return tuple(sorted({*THRESHOLDS, *map(check_threshold, more)}))


def count_labels(
    label: np.ndarray, confidence: np.ndarray, num_classes: int
) -> np.ndarray:
    """Count pixels by class and confidence.

    Args:
        label (ndarray): uint8 (H, W), classes only.
        confidence (ndarray): uint8 (H, W), as in
            :mod:`hmsa_mmseg.datasets.confidence`.
        num_classes (int): K.

    Returns:
        ndarray: int64 (K, 256).
    """
    counts = np.zeros(num_classes * LEVELS, np.int64)
    for part, value in _strips(label, confidence):
        index = part.astype(np.intp) * LEVELS + value
        counts += np.bincount(index, minlength=len(counts))
    return counts.reshape(num_classes, LEVELS)


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
        confidence (ndarray): uint8 (H, W).
        num_classes (int): K.
        thresholds (Sequence[float]): T, rising, the first of them 0.

    Returns:
        TruthCounts: Without the pixels whose true label says nothing.
    """
    counts = TruthCounts.empty(num_classes, len(thresholds))
    bucket = np.sum([is_kept(t) for t in thresholds], 0) - 1
    for strip in _strips(truth, label, confidence):
        known = strip[0] != IGNORE
        true, given, value = (part[known].astype(np.intp) for part in strip)
        by_class = given * LEVELS + value
        index = (true * num_classes + given) * len(thresholds) + bucket[value]
        for table, found in zip(
            counts,
            (
                *(index, by_class[true == given], by_class),
                true * LEVELS + value,
            ),
        ):
            table += np.bincount(found, minlength=table.size).reshape(
                table.shape
            )
    return counts


def count_changes(
    before: np.ndarray, now: np.ndarray, kept: np.ndarray, num_classes: int
) -> np.ndarray:
    """Count pixels by the class that they had and that they have.

    Args:
        before (ndarray): uint8 (H, W), classes only.
        now (ndarray): uint8 (H, W), likewise.
        kept (ndarray): bool (H, W): kept in both.
        num_classes (int): K.

    Returns:
        ndarray: int64 (2, K, K): all pixels, and those that are kept.
    """
    counts = np.zeros((2, num_classes**2), np.int64)
    for *parts, keep in _strips(before, now, kept):
        old, new = (part.astype(np.intp) for part in parts)
        index = old * num_classes + new
        for row, found in zip(counts, (index, index[keep])):
            row += np.bincount(found, minlength=len(row))
    return counts.reshape(2, num_classes, num_classes)


def _strips(*arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Cut arrays of one size into flat parts."""
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f'expected one size, got {sorted(sizes)}')
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _STRIP):
        yield [part[start : start + _STRIP] for part in flat]


def kept_counts(counts: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Sum up what thresholds keep.

    Args:
        counts (ndarray): (..., 256).
        thresholds (Sequence[float]): T.

    Returns:
        ndarray: (..., T), of the type of ``counts``.
    """
    keep = np.array([is_kept(t) for t in thresholds], dtype=counts.dtype)
    return counts @ keep.T


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; nan where there is nothing to divide by.

    Args:
        part (ndarray): Numbers, to be broadcast with ``whole``.
        whole (ndarray): Numbers.

    Returns:
        ndarray: float64.
    """
    part, whole = np.broadcast_arrays(part, whole)
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def coverage(counts: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Share of the pixels that thresholds keep, float64 (..., T).

    Args:
        counts (ndarray): (..., 256).
        thresholds (Sequence[float]): T.
    """
    return divide(kept_counts(counts, thresholds), counts.sum(-1)[..., None])


def confusion_at(confusion: np.ndarray, index: int) -> np.ndarray:
    """Confusion of the pixels that a threshold keeps.

    Args:
        confusion (ndarray): (K, K, T), of :class:`TruthCounts`.
        index (int): Of the threshold.

    Returns:
        ndarray: int64 (K, K): true class, class given.
    """
    return confusion[..., index:].sum(-1)


def class_scores(
    confusion: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and IoU of each class.

    Args:
        confusion (ndarray): (K, K): true class, class given.

    Returns:
        tuple: Three of float64 (K,), nan where there is nothing to divide
        by. IoU is that of mmseg's IoUMetric; its mIoU is the mean of what is
        not nan.
    """
    hits, given, true = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    return (
        divide(hits, given),
        divide(hits, true),
        divide(hits, given + true - hits),
    )


def mean_known(values: np.ndarray) -> float:
    """Mean of what is not nan; nan if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float('nan')
