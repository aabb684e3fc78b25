"""What a report says of auto-labels beside other labels, in plain types.

Shape shorthand in this module:
    K: classes, T: thresholds, N: images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hmsa_mmseg.datasets.confidence import is_kept

from .calibration import (
    CONFIDENCE,
    Suggestion,
    reliability,
    suggest_threshold,
)
from .report_counts import Counts
from .report_data import plain
from .report_truths import Truths
from .statistics import (
    class_scores,
    confusion_at,
    coverage,
    divide,
    kept_counts,
    mean_known,
)


def truth_part(
    truths: Truths,
    counts: Counts,
    classes: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Compare with labels, where those say something.

    Args:
        truths (Truths): The other labels.
        counts (Counts): Of all images, against them.
        classes (Sequence[str]): K names.
        thresholds (Sequence[float]): T, the first of them 0.

    Returns:
        dict: How many images were compared, and why others were not; for
        each threshold ``coverage``, ``precision`` (of the pixels kept, those
        that are right) and ``miou`` (of the pixels kept; without a threshold
        that of mmseg's IoUMetric); for each class ``precision``, ``iou`` and
        ``coverage``, and ``recall``, the part of all its true pixels that is
        kept and right, T values each; and the counts of ``confusion`` of the
        pixels kept, (T, K, K).
    """
    truth = counts.truth
    given = truth.given.sum(0)
    precision = divide(
        kept_counts(truth.hits.sum(0), thresholds),
        kept_counts(given, thresholds),
    )
    tables = [confusion_at(truth.confusion, i) for i in range(len(thresholds))]
    scores = [class_scores(table) for table in tables]
    recall = divide(
        kept_counts(truth.hits, thresholds), truth.true.sum(1)[:, None]
    )
    kept = coverage(truth.true, thresholds)
    rows = [
        dict(
            name=name,
            pixels=int(truth.true[k].sum()),
            given=int(truth.given[k].sum()),
            precision=plain([one[0][k] for one in scores]),
            recall=plain(recall[k]),
            iou=plain([one[2][k] for one in scores]),
            coverage=plain(kept[k]),
        )
        for k, name in enumerate(classes)
    ]
    without = [i.name for i in counts.images if i.truth_error == '']
    return dict(
        data_set=truths.key,
        images=len(counts.compared),
        without=dict(count=len(without), names=without),
        damaged=[
            dict(name=image.name, error=image.truth_error)
            for image in counts.images
            if image.truth_error
        ],
        unused=len(truths)
        - len(truths.match([i.name for i in counts.images])),
        pixels=int(given.sum()),
        thresholds=[
            dict(
                threshold=threshold,
                coverage=plain(coverage(given, [threshold])[0]),
                precision=plain(precision[i]),
                miou=plain(mean_known(scores[i][2])),
            )
            for i, threshold in enumerate(thresholds)
        ],
        classes=rows,
        confusion=plain(np.array(tables)),
    )


def calibration_part(
    counts: Counts,
    target: float,
    has_confidence: bool = True,
) -> dict[str, Any]:
    """Compare confidence with precision on a labelled split.

    Args:
        counts (Counts): Of its images, against true labels.
        target (float): Precision of the pixels that a threshold lets in.
        has_confidence (bool): Whether there are files of it. Without them
            nothing is said about it. Defaults to True.

    Returns:
        dict: The ``bins`` of the reliability diagram, ``ece`` and ``excess``,
        the latter by the class given as ``calibration``, precision from each
        of the 256 values on as ``curve``, and ``suggestion``, None if there
        is none.
    """
    truth = counts.truth
    hits, given = truth.hits.sum(0), truth.given.sum(0)
    found = reliability(hits, given)
    by_class = divide(
        (truth.given * CONFIDENCE).sum(1) - truth.hits.sum(1),
        truth.given.sum(1),
    )
    tails = (np.cumsum(table[::-1])[::-1] for table in (hits, given))
    images = counts.compared
    suggestion = has_confidence and suggest_threshold(
        np.array([i.hits for i in images]).reshape(-1, 256),
        np.array([i.given for i in images]).reshape(-1, 256),
        target,
    )
    return dict(
        bins=[
            dict(pixels=int(n), confidence=plain(c), precision=plain(p))
            for n, c, p in zip(*found[:3])
        ],
        ece=plain(found.error) if has_confidence else None,
        excess=plain(found.excess) if has_confidence else None,
        calibration=plain(by_class)
        if has_confidence
        else [None] * len(by_class),
        curve=plain(divide(*tails)),
        target=target,
        suggestion=_suggested(suggestion or None, hits, given),
    )


def _suggested(
    suggestion: Suggestion | None, hits: np.ndarray, given: np.ndarray
) -> dict[str, Any] | None:
    if suggestion is None:
        return None
    keep = is_kept(suggestion.threshold)
    return dict(
        threshold=suggestion.threshold,
        low=suggestion.low,
        high=suggestion.high,
        coverage=plain(divide(given[keep].sum(), given.sum())),
        precision=plain(divide(hits[keep].sum(), given[keep].sum())),
    )
