"""How much each scale counts, by class.

Shape shorthand in this module:
    K: classes, S: scales.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hmsa_mmseg.visualization import scale_shares

from .run import Run


class ClassShare(NamedTuple):
    """One class, or all of them together.

    Attributes:
        name (str): Of the class.
        pixels (int): Number of its pixels.
        weights (list[float]): Mean weight of each scale, S values of sum 1.
        wins (list[float]): Part of the pixels in which each scale has the
            largest weight, S values of sum 1 or, with ties, less.
        mean_scale (float): The scales' geometric mean, weighted so:
            ``2 ** sum(weight * log2(scale))``.
    """

    name: str
    pixels: int
    weights: list[float]
    wins: list[float]
    mean_scale: float


def class_shares(run: Run, by: str) -> list[ClassShare] | None:
    """Shares of the scales, first of all pixels, then of each class.

    Args:
        run (Run): The run.
        by (str): ``'predicted'`` or ``'labelled'``: which of the classes of a
            pixel counts.

    Returns:
        list[ClassShare] | None: Of the classes that have pixels, the one that
        relies on high scales most first; None where it was not counted.
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
    weights, wins = (scale_shares(records, by, wins) for wins in (False, True))
    rows = [
        _share(name, pixels[k], weights[:, k], wins[:, k], run.scales)
        for k, name in enumerate(run.classes)
        if pixels[k]
    ]
    rows.sort(key=lambda row: -row.mean_scale)
    # Those of classes without pixels are nan.
    total = [
        np.nan_to_num(values) @ pixels / pixels.sum()
        for values in (weights, wins)
    ]
    return [_share('all', pixels.sum(), *total, run.scales), *rows]


def _share(
    name: str,
    pixels: int,
    weights: np.ndarray,
    wins: np.ndarray,
    scales: tuple[float, ...],
) -> ClassShare:
    return ClassShare(
        name=name,
        pixels=int(pixels),
        weights=weights.tolist(),
        wins=wins.tolist(),
        mean_scale=float(2 ** (weights @ np.log2(scales))),
    )
