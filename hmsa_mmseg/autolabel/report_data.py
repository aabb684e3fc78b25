"""What a report on auto-labels says, in plain types.

Shares, precision, recall and IoU are fractions, 0 to 1, and None where there
is nothing to divide by.

Shape shorthand in this module:
    K: classes, T: thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hmsa_mmseg.datasets.autolabel_files import label_file, prob_file

from .calibration import CONFIDENCE
from .report_counts import Counts
from .report_tree import Tree
from .statistics import coverage, divide, kept_counts

#: Bars of the histograms of confidence; 255 / 15 = 17 values each.
HISTOGRAM = 15


def plain(values: Any) -> Any:
    """Turn arrays and numbers into what JSON has; nan becomes None."""
    if isinstance(values, np.ndarray) and not values.ndim:
        values = values[()]
    if isinstance(values, (np.ndarray, list, tuple)):
        return [plain(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return None if np.isnan(values) else round(float(values), 8)
    return int(values) if isinstance(values, np.integer) else values


def image_part(tree: Tree, counts: Counts) -> dict[str, Any]:
    """Say how many images there are, and what is wrong with the others."""
    failures = Counter(line.get('reason', '?') for line in tree.failures)
    unlisted = tree.unlisted()
    return dict(
        labelled=len(tree.lines),
        counted=len(tree.lines) - len(counts.damaged),
        pixels=int(counts.pixels.sum()),
        modes=dict(Counter(line.get('mode', '?') for line in tree.lines)),
        damaged=[
            dict(name=image.name, error=image.error)
            for image in counts.damaged
        ],
        failures=dict(failures.most_common()),
        failed=[
            {key: line.get(key) for key in ('name', 'reason', 'error')}
            for line in tree.failures
        ],
        missing=dict(count=len(tree.missing), names=tree.missing),
        unlisted=dict(count=len(unlisted), names=unlisted),
    )


def coverage_part(
    pixels: np.ndarray, thresholds: Sequence[float]
) -> dict[str, Any]:
    """Share of pixels that thresholds keep.

    Args:
        pixels (ndarray): int64 (K, 256), by class and confidence.
        thresholds (Sequence[float]): T.

    Returns:
        dict: ``overall`` and, for each class in their order (two may share a
        name), ``classes``: T values each; and
        ``curve``, the share kept from each of the 256 values on.
    """
    total = pixels.sum(0)
    curve = divide(np.cumsum(total[::-1])[::-1], total.sum())
    by_class = coverage(pixels, thresholds)
    return dict(
        thresholds=list(thresholds),
        overall=plain(coverage(total, thresholds)),
        classes=plain(by_class),
        curve=plain(curve),
    )


def class_part(
    pixels: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    prior: np.ndarray | None,
) -> list[dict[str, Any]]:
    """Describe each class.

    Args:
        pixels (ndarray): int64 (K, 256), by class and confidence.
        classes (Sequence[str]): K names.
        threshold (float): Of what is kept.
        prior (ndarray, optional): int64 (K,): pixels of true labels.

    Returns:
        list[dict]: K of ``name``, ``pixels``, ``kept``, ``coverage``,
        ``share`` of all pixels that are kept, ``mean_confidence``,
        ``histogram`` (shares of its pixels in 15 equal steps of confidence),
        and with a prior ``prior``, its share in true labels, and ``ratio``
        of the two.
    """
    counts, kept = pixels.sum(1), kept_counts(pixels, [threshold])[:, 0]
    share = divide(kept, kept.sum())
    mean = divide((pixels * CONFIDENCE).sum(1), counts)
    starts = np.arange(HISTOGRAM) * (255 // HISTOGRAM)
    bars = divide(np.add.reduceat(pixels, starts, axis=1), counts[:, None])
    rows = []
    for k, name in enumerate(classes):
        row = dict(
            name=name,
            pixels=counts[k],
            kept=kept[k],
            coverage=divide(kept[k], counts[k]),
            share=share[k],
            mean_confidence=mean[k],
            histogram=bars[k],
        )
        if prior is not None:
            true = divide(prior, prior.sum())
            row.update(prior=true[k], ratio=divide(share[k], true[k]))
        rows.append({key: plain(value) for key, value in row.items()})
    return rows


def worst_part(
    tree: Tree, counts: Counts, threshold: float, below: float, worst: int
) -> dict[str, Any]:
    """List the images of which little is kept.

    Args:
        tree (Tree): The folder.
        counts (Counts): Of all its images.
        threshold (float): Of what is kept.
        below (float): Images with a smaller coverage are listed.
        worst (int): So many are described, if they are above that or not.

    Returns:
        dict: ``mean`` coverage of an image, ``below`` and ``count`` and
        ``low``, the images below it, and ``worst``; the lowest first.
    """
    found = [image for image in counts.images if image.values is not None]
    values = np.array([i.values for i in found]).reshape(-1, 256)
    shares = coverage(values, [threshold])[:, 0]
    order = np.argsort(shares, kind='stable')  # by name, if equal
    rows = []
    for i in order:
        name = found[i].name
        line = tree.lines[tree.names[name]]
        row = dict(name=name, coverage=plain(shares[i]))
        prob = prob_file(name, tree.layout) if tree.has_confidence else None
        row.update(
            image=line.get('image'),
            label=label_file(name, tree.layout),
            prob=prob,
        )
        rows.append(row)
    low = [row for row in rows if (row['coverage'] or 0) < below]
    return dict(
        mean=plain(float(np.mean(shares))) if found else None,
        below=below,
        count=len(low),
        low=[{key: row[key] for key in ('name', 'coverage')} for row in low],
        worst=rows[:worst],
    )


def change_part(
    previous: Tree, counts: Counts, classes: Sequence[str], worst: int
) -> dict[str, Any]:
    """Compare with the labels of the round before.

    Args:
        previous (Tree): Their folder.
        counts (Counts): Of all images, against it.
        classes (Sequence[str]): K names.
        worst (int): So many images are listed.

    Returns:
        dict: Share of pixels whose label ``changed``, of all that both rounds
        have, and of those ``kept`` in both; by class before; which class
        became which, most frequent first; and the images that changed most.
    """
    every, kept = counts.changes
    compared = [image for image in counts.images if image.change is not None]
    missing = [
        dict(name=image.name, error=image.change_error)
        for image in counts.images
        if image.change_error is not None
    ]

    def changed(table: np.ndarray) -> np.ndarray:
        return 1 - divide(np.diag(table), table.sum(1))

    def share(table: np.ndarray) -> Any:
        return plain(1 - divide(np.trace(table), table.sum()))

    rows = [
        dict(
            name=name,
            pixels=int(every[k].sum()),
            changed=plain(changed(every)[k]),
            kept=int(kept[k].sum()),
            kept_changed=plain(changed(kept)[k]),
        )
        for k, name in enumerate(classes)
    ]
    pairs = every * ~np.eye(len(classes), dtype=bool)
    most = np.argsort(-pairs, axis=None, kind='stable')[:20]
    turned = [
        dict(before=classes[a], now=classes[b], pixels=int(pairs[a, b]))
        for a, b in zip(*np.unravel_index(most, pairs.shape))
        if pairs[a, b]
    ]
    images = [
        dict(
            name=image.name,
            changed=image.change.changed / image.change.pixels,
            kept_changed=plain(
                divide(image.change.kept_changed, image.change.kept)
            ),
        )
        for image in compared
    ]
    images.sort(key=lambda row: -row['changed'])
    return dict(
        folder=previous.folder.name,
        images=len(compared),
        missing=missing,
        gone=len({*previous.names} - {image.name for image in counts.images}),
        pixels=int(every.sum()),
        changed=share(every),
        kept=int(kept.sum()),
        kept_changed=share(kept),
        classes=rows,
        turned=turned,
        worst=images[:worst],
    )
