"""Counts of one image, and what follows from those of many.

Shape shorthand in this module:
    H, W: original size of an image, K: classes, S: scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmseg.structures import SegDataSample

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
    counts = dict(class_pixels=_histogram(maps.prediction, num_classes))
    if maps.confidence is not None:
        counts['mean_confidence'] = float(maps.confidence.mean(dtype=float))
    if maps.scale_weights is not None:
        counts['class_weights'], counts['class_wins'] = _count_scales(
            maps, maps.prediction, num_classes
        )
    if maps.ground_truth is not None:
        counts.update(_count_labelled(maps, num_classes, ignore_index))
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
    return _iou(*(_total(records, name) for name in _IOU_COUNTS))


def scale_class_iou(records: Sequence[Record]) -> np.ndarray:
    """IoU of each scale alone, float64 (S, K), as :func:`class_iou`."""
    intersect, predicted = (
        _total(records, f'scale_{name}') for name in _IOU_COUNTS[:2]
    )
    return _iou(intersect, predicted, _total(records, 'labelled'))


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
    return _divide(_total(records, name), _total(records, pixels))


_IOU_COUNTS = ('intersect', 'predicted', 'labelled')


def _histogram(
    classes: np.ndarray, num_classes: int, weights: np.ndarray | None = None
) -> list:
    """Pixels, or sums of their weights, of each class."""
    if weights is not None:
        weights = weights.ravel()
    return np.bincount(classes.ravel(), weights, num_classes).tolist()


def _count_scales(
    maps: SampleMaps,
    classes: np.ndarray,
    num_classes: int,
    where: np.ndarray | slice = slice(None),
) -> tuple[list, list]:
    """Weights and wins of each scale, by class."""
    wins = maps.winning_scale[where]
    return (
        [
            _histogram(classes, num_classes, weights[where])
            for weights in maps.scale_weights
        ],
        [
            _histogram(classes[wins == scale], num_classes)
            for scale in range(len(maps.scales))
        ],
    )


def _count_labelled(
    maps: SampleMaps, num_classes: int, ignore_index: int
) -> dict:
    where = maps.ground_truth != ignore_index
    labels = maps.ground_truth[where]

    def compare(classes: np.ndarray) -> tuple[list, list]:
        classes = classes[where]
        hits = classes[classes == labels]
        return _histogram(hits, num_classes), _histogram(classes, num_classes)

    intersect, predicted = compare(maps.prediction)
    counts = dict(
        intersect=intersect,
        predicted=predicted,
        labelled=_histogram(labels, num_classes),
    )
    if maps.scale_classes is not None:
        pairs = [compare(classes) for classes in maps.scale_classes]
        counts['scale_intersect'] = [intersect for intersect, _ in pairs]
        counts['scale_predicted'] = [predicted for _, predicted in pairs]
    if maps.scale_weights is not None:
        counts['labelled_weights'], counts['labelled_wins'] = _count_scales(
            maps, labels, num_classes, where
        )
    return counts


def _total(records: Sequence[Record], name: str) -> np.ndarray:
    """Sum of a count over the records that have it, float64."""
    found = [getattr(record, name) for record in records]
    found = [np.asarray(count, float) for count in found if count is not None]
    if found:
        return np.sum(found, axis=0)
    num_classes = len(records[0].classes)
    per_scale = name not in ('class_pixels', *_IOU_COUNTS)
    shape = (len(records[0].scales), num_classes) if per_scale else num_classes
    return np.zeros(shape)


def _iou(intersect, predicted, labelled) -> np.ndarray:
    return _divide(intersect, predicted + labelled - intersect)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(
        part, whole, out=np.full(part.shape, np.nan), where=whole > 0
    )
