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
from hmsa_mmseg.visualization import (
    Record,
    class_iou,
    read_records,
    scale_class_iou,
    scale_shares,
)
from hmsa_mmseg.visualization import read_run as read_info

from .pages import ReportError


@dataclass(frozen=True)
class Run:
    """The records of a show-dir.

    Attributes:
        name (str): What the page calls it.
        folder (Path): The show-dir.
        records (list[Record]): One per image, of the same classes and scales.
        info (dict): Of ``run.json``; empty if there is none.
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


def read_run(folder: Path, name: str) -> Run:
    """Read a show-dir.

    Args:
        folder (Path): That holds the folder ``scale_maps``.
        name (str): What the page shall call the run.

    Returns:
        Run: With one image or more.

    Raises:
        ReportError: If there are no records.
        ValueError: If a file is damaged, or they are of different runs; the
            message names it.
    """
    try:
        records = read_records(folder)
    except FileNotFoundError as error:
        raise ReportError(
            f'{error}, with ScaleMapsVisualizer and '
            'ScaleMapsVisualizationHook in the config'
        ) from error
    return Run(name, folder, records, read_info(folder) or {})


def score(records: Sequence[Record]) -> Scores | None:
    """Scores over the labelled ones of some images; None without any."""
    records = [r for r in records if r.intersect is not None]
    if not records:
        return None
    hits, labelled = (
        np.sum([getattr(r, name) for r in records], axis=0)
        for name in ('intersect', 'labelled')
    )
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
    return 100 * scale_class_iou(records) if records else None


def class_shares(run: Run, by: str) -> list[dict[str, Any]] | None:
    """How much each scale counts, first of all pixels, then of each class.

    Args:
        run (Run): The run.
        by (str): ``'predicted'`` or ``'labelled'``: which of the classes of a
            pixel counts.

    Returns:
        list[dict] | None: ``name`` of the class, number of its ``pixels``,
        mean ``weights`` of the scales, ``wins``, the part of the pixels in
        which each scale has the largest weight, and ``mean_scale``, the
        geometric mean of the scales, weighted so. Of the classes that have
        pixels, the one that relies on high scales most first; None where it
        was not counted.
    """
    field, counted = (
        ('class_pixels', 'class_weights')
        if by == 'predicted'
        else ('labelled', 'labelled_weights')
    )
    records = [r for r in run.records if getattr(r, counted) is not None]
    pixels = np.sum([getattr(r, field) for r in records], axis=0)
    if not records or not pixels.sum():
        return None
    # Those of classes without pixels are nan. One row more is of all.
    weights, wins = (
        np.nan_to_num(scale_shares(records, by, is_wins)).T
        for is_wins in (False, True)
    )
    weights, wins = (
        np.vstack([shares, pixels @ shares / pixels.sum()])
        for shares in (weights, wins)
    )
    names, pixels = (*run.classes, 'all'), [*pixels, pixels.sum()]
    rows = [
        dict(
            name=name,
            pixels=int(pixels[k]),
            weights=weights[k].tolist(),
            wins=wins[k].tolist(),
            mean_scale=float(2 ** (weights[k] @ np.log2(run.scales))),
        )
        for k, name in enumerate(names)
        if pixels[k]
    ]
    return [rows[-1], *sorted(rows[:-1], key=lambda row: -row['mean_scale'])]
