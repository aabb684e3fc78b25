"""Counts of one image, and what follows from those of many.

Shape shorthand in this module:
    H, W: original size of an image, K: classes, S: scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmseg.structures import SegDataSample

from hmsa_mmseg.utils.confusion import count_confusion, divide, joint_counts

from .colours import as_palette
from .records import Record
from .sample_maps import SampleMaps, read_sample


def make_record(
    image: str,
    data_sample: SegDataSample,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    pictures: Mapping[str, str] | None = None,
    ignore_index: int = 255,
) -> Record:
    """Count what the pictures show.

    Args:
        image (str): Path below the images of the data set.
        data_sample (SegDataSample): Result of the image, as in
            :func:`draw_pictures`.
        classes (Sequence[str]): K names.
        palette (Sequence, optional): K colours, as in :func:`draw_pictures`.
        pictures (Mapping[str, str], optional): From :func:`write_pictures`.
        ignore_index (int): Of the labels. Defaults to 255.

    Returns:
        Record: Of plain types.

    Raises:
        ValueError: As :func:`draw_pictures`.
    """
    num_classes = len(classes)
    maps = read_sample(data_sample, num_classes, ignore_index)
    pixels = joint_counts([maps.prediction], [num_classes])
    counts = dict(class_pixels=pixels.tolist())
    if maps.confidence is not None:
        counts['mean_confidence'] = float(maps.confidence.mean(dtype=float))
    if maps.scale_weights is not None:
        counts.update(_of_scales('class', maps, maps.prediction, num_classes))
    if maps.ground_truth is not None:
        label = maps.ground_truth
        tables = [
            count_confusion(label, guess, num_classes, ignore_index)
            for guess in (maps.prediction, *_each(maps.scale_classes))
        ]
        hits, predicted = (
            [values.tolist() for values in found]
            for found in zip(*((np.diag(t), t.sum(0)) for t in tables))
        )
        counts.update(
            intersect=hits[0],
            predicted=predicted[0],
            labelled=tables[0].sum(1).tolist(),
        )
        if maps.scale_classes is not None:
            counts.update(scale_intersect=hits[1:])
            counts.update(scale_predicted=predicted[1:])
        if maps.scale_weights is not None:
            label = np.where(label == ignore_index, num_classes, label)
            counts.update(_of_scales('labelled', maps, label, num_classes))
    return Record(
        image=image,
        size=tuple(maps.size),
        scales=maps.scales,
        classes=tuple(classes),
        palette=as_palette(palette, num_classes).tolist(),
        pictures=dict(pictures or {}),
        **counts,
    )


def class_iou(records: Sequence[Record]) -> np.ndarray:
    """IoU of each class over all labelled images, as ``IoUMetric``.

    Args:
        records (Sequence[Record]): Of one run.

    Returns:
        ndarray: float64 (K,), 0 to 1; nan where a class is in neither
        prediction nor labels, or nothing is labelled.
    """
    return _iou(records, '')


def scale_class_iou(records: Sequence[Record]) -> np.ndarray:
    """IoU of each scale alone, float64 (S, K), as :func:`class_iou`."""
    return _iou(records, 'scale_')


def scale_shares(
    records: Sequence[Record], by: str = 'predicted', wins: bool = False
) -> np.ndarray:
    """Part of each scale in the result, by class.

    Args:
        records (Sequence[Record]): Of one run.
        by (str): ``'predicted'`` or ``'labelled'``, which of the classes of a
            pixel. Defaults to 'predicted'.
        wins (bool): The part of the pixels in which a scale has the largest
            weight, instead of its mean weight. Defaults to False.

    Returns:
        ndarray: float64 (S, K), 0 to 1, sum 1 over the scales, or, of wins,
        less where several scales have the largest weight; nan for a class
        without pixels; (0, K) without maps of scales.

    Raises:
        ValueError: If ``by`` is something else.
    """
    if by not in ('predicted', 'labelled'):
        raise ValueError(f"by must be 'predicted' or 'labelled', got {by!r}")
    prefix = 'class' if by == 'predicted' else by
    name = f'{prefix}_wins' if wins else f'{prefix}_weights'
    # Only images of which both are known.
    records = [r for r in records if getattr(r, name) is not None] or records
    pixels = 'class_pixels' if by == 'predicted' else 'labelled'
    return divide(_total(records, name), _total(records, pixels))


def _of_scales(
    name: str, maps: SampleMaps, classes: np.ndarray, num_classes: int
) -> dict[str, list]:
    """Weights and wins of each scale, by class; K stands for none."""
    flat, num_scales = classes.ravel(), len(maps.scales)
    weights = [
        np.bincount(flat, one.ravel(), num_classes + 1)[:-1].tolist()
        for one in maps.scale_weights
    ]
    # Those of no scale are counted as of one more.
    wins = joint_counts(
        (maps.winning_scale % (num_scales + 1), classes),
        (num_scales + 1, num_classes + 1),
    )
    return {
        f'{name}_weights': weights,
        f'{name}_wins': wins[:-1, :-1].tolist(),
    }


def _each(stack: np.ndarray | None) -> Sequence[np.ndarray]:
    return () if stack is None else stack


def _total(records: Sequence[Record], name: str) -> np.ndarray:
    """Sum of a count over the records that have it, float64."""
    found = [getattr(record, name) for record in records]
    found = [np.asarray(count, float) for count in found if count is not None]
    if found:
        return np.sum(found, axis=0)
    is_per_scale = name.startswith('scale_') or name.endswith(
        ('_weights', '_wins')
    )
    num_classes = len(records[0].classes)
    num_scales = len(records[0].scales)
    return np.zeros((num_scales, num_classes) if is_per_scale else num_classes)


def _iou(records: Sequence[Record], prefix: str) -> np.ndarray:
    intersect, predicted, labelled = (
        _total(records, name)
        for name in (f'{prefix}intersect', f'{prefix}predicted', 'labelled')
    )
    return divide(intersect, predicted + labelled - intersect)
