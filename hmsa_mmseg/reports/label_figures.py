"""What a report on auto-labels says, in its parts.

Shares, precision, recall and IoU are fractions, 0 to 1, and nan where there
is nothing to divide by. Arrays become lists, and nan None, by :func:`plain`.

Shape shorthand in this module:
    K: classes, T: thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hmsa_mmseg.autolabel.calibration import (
    CONFIDENCE,
    reliability,
    suggest_level,
    threshold_of,
)
from hmsa_mmseg.autolabel.statistics import coverage, kept_counts
from hmsa_mmseg.datasets.autolabel_files import label_file, prob_file
from hmsa_mmseg.utils.confusion import divide, scores

from .label_counts import Counts, share_changed
from .label_set import LabelSet
from .label_truths import Truths

#: Bars of the histograms of confidence; 255 / 15 = 17 values each.
HISTOGRAM = 15
#: So many of the most frequent confusions or changes are listed.
TOP = 20


def plain(values: Any) -> Any:
    """Turn arrays and numbers into what JSON has; nan becomes None."""
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, (np.ndarray, list, tuple)):
        return [plain(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return None if np.isnan(values) else round(float(values), 8)
    return int(values) if isinstance(values, np.integer) else values


def image_part(labels: LabelSet, counts: Counts) -> dict[str, Any]:
    """Say how many images there are, and what is wrong with the others."""
    failures = Counter(line.get('reason', '?') for line in labels.failures)
    damaged = _listed(counts, 'error')
    return dict(
        labelled=len(labels.lines),
        counted=len(labels.lines) - len(damaged),
        pixels=int(counts.pixels.sum()),
        modes=dict(Counter(line.get('mode', '?') for line in labels.lines)),
        damaged=damaged,
        failures=dict(failures.most_common()),
        failed=[
            {key: line.get(key) for key in ('name', 'reason', 'error')}
            for line in labels.failures
        ],
        missing=_counted(labels.missing),
        unlisted=_counted(labels.unlisted()),
    )


def coverage_part(
    pixels: np.ndarray, thresholds: Sequence[float]
) -> dict[str, Any]:
    """Share of pixels, (K, 256) by class and confidence, that is kept.

    Returns:
        dict: ``overall`` and, for each class in their order (two may share a
        name), ``classes``: T values each; and
        ``curve``, the share kept from each of the 256 values on.
    """
    total = pixels.sum(0)
    return dict(
        thresholds=thresholds,
        overall=coverage(total, thresholds),
        classes=coverage(pixels, thresholds),
        curve=divide(_from_each(total), total.sum()),
    )


def class_part(
    labels: LabelSet,
    pixels: np.ndarray,
    threshold: float,
    prior: np.ndarray | None,
) -> list[dict[str, Any]]:
    """Describe each class, of pixels (K, 256) by class and confidence.

    The prior, (K,), are pixels of true labels.

    Returns:
        list[dict]: K of ``name``, ``pixels``, ``kept``, ``coverage``,
        ``share`` of all pixels that are kept, ``mean_confidence``,
        ``histogram`` (shares of its pixels in 15 equal steps of confidence),
        and with a prior ``prior``, its share in true labels, and ``ratio``
        of the two.
    """
    counts, kept = pixels.sum(1), kept_counts(pixels, [threshold])[:, 0]
    starts = np.arange(HISTOGRAM) * (255 // HISTOGRAM)
    bars = np.add.reduceat(pixels, starts, axis=1)
    columns = dict(
        name=labels.classes,
        pixels=counts,
        kept=kept,
        coverage=divide(kept, counts),
        share=divide(kept, kept.sum()),
        mean_confidence=divide((pixels * CONFIDENCE).sum(1), counts),
        histogram=divide(bars, counts[:, None]),
    )
    if not labels.has_confidence:
        unknown = [None] * len(counts)
        columns.update(mean_confidence=unknown, histogram=unknown)
    if prior is not None:
        true = divide(prior, prior.sum())
        columns.update(prior=true, ratio=divide(columns['share'], true))
    return _rows(columns)


def worst_part(
    labels: LabelSet, counts: Counts, below: float, worst: int
) -> dict[str, Any]:
    """List the images of which little is kept.

    Returns:
        dict: ``mean`` coverage of an image, ``below`` and ``count`` and
        ``low``, the images below it, and ``worst``, so many images, below it
        or not; the lowest first.
    """
    found = [one for one in counts.images if 'coverage' in one]
    shares = np.array([one['coverage'] for one in found])
    # By name, if equal; without pixels last.
    rows = [
        dict(name=found[i]['name'], coverage=shares[i])
        for i in np.argsort(shares, kind='stable')
    ]
    low = [row for row in rows if np.nan_to_num(row['coverage']) < below]
    return dict(
        mean=shares.mean() if found else None,
        below=below,
        count=len(low),
        low=low,
        worst=[
            dict(
                row,
                image=labels.lines[labels.names[row['name']]].get('image'),
                label=label_file(row['name'], labels.layout),
                prob=prob_file(row['name'], labels.layout)
                if labels.has_confidence
                else None,
            )
            for row in rows[:worst]
        ],
    )


def change_part(
    previous: LabelSet, counts: Counts, worst: int
) -> dict[str, Any]:
    """Compare with the labels of the round before.

    Returns:
        dict: Share of pixels whose label ``changed``, of all that both rounds
        have, and of those ``kept`` in both; by class before; which class
        became which, most frequent first; and so many images, those that
        changed most.
    """
    classes, (every, kept) = previous.classes, counts.changes
    names = {image['name'] for image in counts.images}
    of_class, of_kept = (
        1 - divide(np.diag(table), table.sum(1)) for table in counts.changes
    )
    images = [
        {key: one[key] for key in ('name', 'changed', 'kept_changed')}
        for one in counts.images
        if 'changed' in one
    ]
    images.sort(key=lambda row: -row['changed'])
    columns = dict(
        name=classes,
        pixels=every.sum(1),
        changed=of_class,
        kept=kept.sum(1),
        kept_changed=of_kept,
    )
    return dict(
        folder=previous.folder.name,
        images=len(images),
        missing=_listed(counts, 'change_error'),
        gone=len(previous.names.keys() - names),
        pixels=every.sum(),
        changed=share_changed(every),
        kept=kept.sum(),
        kept_changed=share_changed(kept),
        classes=_rows(columns),
        turned=[
            dict(before=classes[a], now=classes[b], pixels=n)
            for a, b, n in most_confused(every)
        ],
        worst=images[:worst],
    )


def truth_part(
    truths: Truths, counts: Counts, thresholds: Sequence[float]
) -> dict[str, Any]:
    """Compare with labels, where those say something.

    Returns:
        dict: How many images were compared, and why others were not; for
        each threshold ``coverage``, ``precision`` (of the pixels kept, those
        that are right) and ``miou`` (of the pixels kept; without a threshold
        that of mmseg's IoUMetric); for each class ``precision``, ``iou`` and
        ``coverage``, and ``recall``, the part of all its true pixels that is
        kept and right, T values each; and the counts of ``confusion`` of the
        pixels kept, (T, K, K).
    """
    tables = np.array([counts.truth.at(i) for i in range(len(thresholds))])
    found = [scores(table) for table in tables]
    hits = np.diagonal(tables, axis1=1, axis2=2)
    true, kept = tables[0].sum(1), tables.sum(2)
    per_threshold = dict(
        threshold=thresholds,
        coverage=divide(kept.sum(1), true.sum()),
        precision=divide(hits.sum(1), kept.sum(1)),
        miou=[one['mIoU'] / 100 for one in found],
    )
    per_class = dict(
        name=truths.classes,
        pixels=true,
        given=tables[0].sum(0),
        precision=np.transpose([one['Precision'] / 100 for one in found]),
        recall=divide(hits, true).T,
        iou=np.transpose([one['IoU'] / 100 for one in found]),
        coverage=divide(kept, true).T,
    )
    names = [image['name'] for image in counts.images]
    return dict(
        data_set=truths.key,
        images=sum('compared' in image for image in counts.images),
        without=_counted(
            [i['name'] for i in counts.images if i.get('truth_error') == '']
        ),
        damaged=_listed(counts, 'truth_error'),
        unused=len(truths) - len(truths.match(names)),
        pixels=int(true.sum()),
        thresholds=_rows(per_threshold),
        classes=_rows(per_class),
        confusion=tables,
    )


def calibration_part(
    labels: LabelSet, counts: Counts, target: float
) -> dict[str, Any]:
    """Compare confidence with precision on a labelled split.

    The target is the precision of the pixels that a threshold lets in.

    Returns:
        dict: The ``bins`` of the reliability diagram, ``ece`` and ``excess``,
        the latter by the class given as ``calibration``, precision from each
        of the 256 values on as ``curve``, and ``suggestion``, a threshold
        with its coverage and precision, None if there is none.
    """
    truth = counts.truth
    hits, given = truth.hits.sum(0), truth.given.sum(0)
    precision = divide(_from_each(hits), _from_each(given))
    found = reliability(hits, given)
    excess = (truth.given * CONFIDENCE).sum(1) - truth.hits.sum(1)
    bins = dict(
        pixels=found.pixels,
        confidence=found.confidence,
        precision=found.precision,
    )
    data = dict(
        bins=_rows(bins),
        ece=found.error,
        excess=found.excess,
        calibration=divide(excess, truth.given.sum(1)),
        curve=precision,
        target=target,
        suggestion=None,
    )
    if not labels.has_confidence:
        data.update(ece=None, excess=None, calibration=[None] * len(excess))
        return data
    level = suggest_level(hits, given, target)
    if level is not None:
        data['suggestion'] = dict(
            threshold=threshold_of(level),
            coverage=given[level:].sum() / given.sum(),
            precision=precision[level],
        )
    return data


def most_confused(table: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield the largest counts off the diagonal, with row and column."""
    wrong = table * ~np.eye(len(table), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind='stable')[:TOP]
    for a, b in zip(*np.unravel_index(order, wrong.shape)):
        if wrong[a, b]:
            yield int(a), int(b), int(wrong[a, b])


def _from_each(counts: np.ndarray) -> np.ndarray:
    """Sum from each of the 256 values of confidence on."""
    return np.cumsum(counts[::-1])[::-1]


def _rows(columns: dict[str, Sequence]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _counted(names: list[str]) -> dict[str, Any]:
    return dict(count=len(names), names=names)


def _listed(counts: Counts, error: str) -> list[dict[str, Any]]:
    """Names of the images that have an error of a kind."""
    return [
        dict(name=image['name'], error=image[error])
        for image in counts.images
        if image.get(error)
    ]
