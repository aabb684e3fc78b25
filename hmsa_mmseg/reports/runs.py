"""A run to report on, what one ``--show-dir`` holds, and its scores.

Scores are in percent, and nan where there is nothing to divide by.

Shape shorthand in this module:
    K: classes, S: scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmsa_mmseg.utils.confusion import divide, mean_known
from hmsa_mmseg.visualization import Record, class_iou


@dataclass(frozen=True)
class Run:
    """A show-dir: one or more records, of the same classes and scales.

    ``name`` is what the page calls it, ``info`` is from ``run.json``.
    """

    name: str
    folder: Path
    records: list[Record]
    info: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.records[0].classes

    @property
    def palette(self) -> list[list[int]]:
        """Red, green and blue of each class, 0 to 255."""
        return self.records[0].palette

    @property
    def scales(self) -> tuple[float, ...]:
        """Relative image sizes, lowest first; none of a stock model."""
        return self.records[0].scales

    @cached_property
    def by_image(self) -> dict[str, Record]:
        """The records by the path of their image."""
        return {record.image: record for record in self.records}

    @cached_property
    def labelled(self) -> dict[str, Record]:
        """Likewise, of the images that have a ground truth."""
        return {
            image: record
            for image, record in self.by_image.items()
            if record.intersect is not None
        }


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
    hits, labelled = _sums(records, 'intersect', 'labelled')
    iou = 100 * class_iou(records)
    return Scores(
        iou,
        miou=mean_known(iou),
        macc=mean_known(100 * divide(hits, labelled)),
        aacc=float(100 * divide(hits.sum(), labelled.sum())),
    )


def scale_iou(records: Sequence[Record]) -> np.ndarray | None:
    """IoU of each scale alone, (S, K); None where it was not counted."""
    records = [r for r in records if r.scale_intersect is not None]
    if not records:
        return None
    hits, predicted, labelled = _sums(
        records, 'scale_intersect', 'scale_predicted', 'labelled'
    )
    return 100 * divide(hits, predicted + labelled - hits)


def class_shares(run: Run, by: str) -> list[dict[str, Any]] | None:
    """How much each scale counts, first of all pixels, then of each class.

    Of the ``'predicted'`` or ``'labelled'`` class of each pixel.

    Returns:
        list[dict] | None: ``name`` of the class, number of its ``pixels``,
        mean ``weights`` of the scales, ``wins``, the part of the pixels in
        which each scale has the largest weight, and ``mean_scale``, the
        geometric mean of the scales, weighted so. Of the classes that have
        pixels, the one that relies on high scales most first; None where it
        was not counted.
    """
    names = ('class_pixels', 'class_weights', 'class_wins')
    if by == 'labelled':
        names = ('labelled', 'labelled_weights', 'labelled_wins')
    records = [r for r in run.records if getattr(r, names[1]) is not None]
    if not records:
        return None
    # One more is of all classes.
    pixels, weights, wins = (
        np.append(counts, counts.sum(axis=-1, keepdims=True), axis=-1)
        for counts in _sums(records, *names)
    )
    rows = [
        dict(
            name=name,
            pixels=int(pixels[k]),
            weights=(weights[:, k] / pixels[k]).tolist(),
            wins=(wins[:, k] / pixels[k]).tolist(),
            mean_scale=float(
                2 ** (np.log2(run.scales) @ weights[:, k] / pixels[k])
            ),
        )
        for k, name in enumerate((*run.classes, 'all'))
        if pixels[k]
    ]
    if not rows:
        return None
    return [rows[-1], *sorted(rows[:-1], key=lambda row: -row['mean_scale'])]


def _sums(records: Sequence[Record], *names: str) -> list[np.ndarray]:
    return [
        np.sum([getattr(record, name) for record in records], axis=0)
        for name in names
    ]
