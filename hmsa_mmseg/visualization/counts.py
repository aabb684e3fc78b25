"""Counts of one image, and the IoU that follows from those of many.

Shape shorthand in this module:
    K: classes.
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
            :func:`draw_pictures`, which raises the same errors.
        classes (Sequence[str]): K names.
        palette (Sequence, optional): K colours, as in :func:`draw_pictures`.
        pictures (Mapping[str, str], optional): From :func:`write_pictures`.
        ignore_index (int): Of the labels.
    """
    num_classes = len(classes)
    maps = read_sample(data_sample, num_classes, ignore_index)
    has_scales = maps.scale_weights is not None
    pixels = joint_counts([maps.prediction], [num_classes])
    counts = dict(class_pixels=pixels.tolist())
    if maps.confidence is not None:
        counts['mean_confidence'] = float(maps.confidence.mean(dtype=float))
    if has_scales:
        counts.update(_of_scales('class', maps, maps.prediction, num_classes))
    if maps.ground_truth is not None:
        label = maps.ground_truth
        alone = () if maps.scale_classes is None else maps.scale_classes
        tables = [
            count_confusion(label, guess, num_classes, ignore_index)
            for guess in (maps.prediction, *alone)
        ]
        hits = [np.diag(table).tolist() for table in tables]
        predicted = [table.sum(0).tolist() for table in tables]
        counts.update(
            intersect=hits[0],
            predicted=predicted[0],
            labelled=tables[0].sum(1).tolist(),
        )
        if maps.scale_classes is not None:
            counts.update(scale_intersect=hits[1:])
            counts.update(scale_predicted=predicted[1:])
        if has_scales:
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
    """IoU of each class over images that are labelled, as ``IoUMetric``.

    Returns:
        ndarray: float64 (K,), 0 to 1; nan where a class is in neither
        prediction nor labels.
    """
    intersect, predicted, labelled = (
        np.sum([getattr(record, name) for record in records], axis=0)
        for name in ('intersect', 'predicted', 'labelled')
    )
    return divide(intersect, predicted + labelled - intersect)


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
