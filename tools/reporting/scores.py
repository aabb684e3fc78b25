"""Scores of a run, of its images, and of each of its scales.

All are in percent, and nan where there is nothing to divide by.

Shape shorthand in this module:
    K: classes, S: scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hmsa_mmseg.visualization import Record, class_iou, scale_class_iou


class Scores(NamedTuple):
    """What is compared between runs.

    Attributes:
        iou (ndarray): Of each class, (K,), nan of classes that are neither
            labelled nor predicted.
        miou (float): Mean of these, as that of mmseg's IoUMetric.
        macc (float): Mean over the classes of the part of their labelled
            pixels that is right.
        aacc (float): Part of all labelled pixels that is right.
    """

    iou: np.ndarray
    miou: float
    macc: float = np.nan
    aacc: float = np.nan


def score(records: Sequence[Record]) -> Scores | None:
    """Scores over the labelled ones of some images; None without any."""
    records = [r for r in records if r.intersect is not None]
    if not records:
        return None
    hits, labelled = (
        np.sum([getattr(r, name) for r in records], axis=0, dtype=float)
        for name in ('intersect', 'labelled')
    )
    iou = 100 * class_iou(records)
    accuracy = np.full(len(hits), np.nan)
    np.divide(100 * hits, labelled, out=accuracy, where=labelled > 0)
    total = labelled.sum()
    return Scores(
        iou,
        miou=mean(iou),
        macc=mean(accuracy),
        aacc=float(100 * hits.sum() / total) if total else np.nan,
    )


def scale_iou(records: Sequence[Record]) -> np.ndarray | None:
    """IoU of each scale alone, (S, K); None where it was not counted."""
    records = [r for r in records if r.scale_intersect is not None]
    return 100 * scale_class_iou(records) if records else None


def mean(values: np.ndarray) -> float:
    """Mean of what is not nan; nan if nothing is left."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else np.nan
