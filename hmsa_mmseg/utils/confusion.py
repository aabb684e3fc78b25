"""Which of K classes are taken for which, counted, and the scores of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Pixels at a time: temporary arrays stay below some 30 MB.
_STRIP = 1 << 20
# Values in an error message.
_MAX_NAMED = 5


def joint_counts(
    arrays: Sequence[np.ndarray], sizes: Sequence[int]
) -> np.ndarray:
    """Count how often values of arrays of one shape come together.

    Args:
        arrays (Sequence[ndarray]): Integers.
        sizes (Sequence[int]): Values of each are from 0 to below its size.

    Returns:
        ndarray: int64, of shape ``sizes``.
    """
    flat = [array.reshape(-1) for array in arrays]
    counts = np.zeros(math.prod(sizes), np.int64)
    for start in range(0, flat[0].size, _STRIP):
        index: Any = 0
        for values, size in zip(flat, sizes):
            part = values[start : start + _STRIP]
            index = index * size + part.astype(np.int64)
        counts += np.bincount(index, minlength=len(counts))
    return counts.reshape(sizes)


def count_confusion(
    label: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    ignore_index: int,
) -> np.ndarray:
    """Count how often each of K classes is predicted where each class is.

    Pixels labelled ``ignore_index`` do not count.

    Returns:
        ndarray: int64 (K, K); a row for each true class, a column for each
        predicted one.

    Raises:
        ValueError: If the shapes differ, or a value is no class.
    """
    if label.shape != prediction.shape:
        raise ValueError(
            f'the prediction is {_size(prediction)}, its label '
            f'{_size(label)}; expected one size'
        )
    counts = label != ignore_index
    label, prediction = label[counts], prediction[counts]
    for name, values in (('label', label), ('prediction', prediction)):
        wrong = values[(values < 0) | (values >= num_classes)]
        if wrong.size:
            found = np.unique(wrong).tolist()
            shown = ', '.join(map(str, found[:_MAX_NAMED]))
            if len(found) > _MAX_NAMED:
                shown += f' and {len(found) - _MAX_NAMED} more'
            raise ValueError(
                f'the {name} holds {shown}; expected classes from 0 to '
                f'{num_classes - 1} (pixels labelled {ignore_index} do not '
                'count)'
            )
    return joint_counts((label, prediction), (num_classes, num_classes))


def scores(matrix: np.ndarray) -> dict[str, Any]:
    """Derive the usual scores from a matrix of :func:`count_confusion`.

    Returns:
        dict: ``IoU``, ``Acc`` (recall) and ``Precision`` for each class, in
        percent, nan where a class neither is nor is predicted; ``mIoU`` and
        ``mAcc``, their means over all other classes; ``aAcc``, the share of
        pixels that are right.
    """
    hits, there, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    iou = 100 * divide(hits, there + predicted - hits)
    accuracy = 100 * divide(hits, there)
    return dict(
        IoU=iou,
        Acc=accuracy,
        Precision=100 * divide(hits, predicted),
        aAcc=100 * divide(hits.sum(), matrix.sum())[()],
        mIoU=mean_known(iou),
        mAcc=mean_known(accuracy),
    )


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide in float64, with broadcasting; nan where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def mean_known(values: np.ndarray) -> float:
    """Mean of what is not nan; nan if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float('nan')


def _size(array: np.ndarray) -> str:
    return ' x '.join(map(str, array.shape))
