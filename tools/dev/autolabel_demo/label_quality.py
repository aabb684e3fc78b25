"""What auto-labels are worth, by the true labels that nobody trains on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from demo.methods import class_iou, read_ids

from hmsa_mmseg.datasets.confidence import is_kept

from .recipes import ALL_TRUE, FINE_ONLY, STUDENTS
from .truth import dataset_of, read_truth

#: 0 keeps everything.
THRESHOLDS = (0.0, 0.5, 0.9)


class AutoLabel(NamedTuple):
    """What an image was labelled with.

    Attributes:
        image (str): Path of the image.
        truth (ndarray): True classes, uint8 (H, W); 255 is ignored.
        label (ndarray): Auto-label, likewise.
        confidence (ndarray): uint8 (H, W), of 255.
    """

    image: str
    truth: np.ndarray
    label: np.ndarray
    confidence: np.ndarray


def read_autolabels(data: Path, labels: str) -> Iterator[AutoLabel]:
    """Read auto-labels as a student's data set does, and the truth.

    Args:
        data (Path): Folder of the data set.
        labels (str): Folder in it with the labels of its ``train_extra``.
    """
    true = dataset_of(ALL_TRUE.path, 'train_dataloader', data)
    found = dataset_of(STUDENTS[0].path, 'train_dataloader', data, labels)
    for (info, truth), given in zip(read_truth(true), found):
        if given['img_path'] != info['img_path']:
            raise RuntimeError(
                f'{given["img_path"]}: expected {info["img_path"]}'
            )
        label = apply_map(read_ids(given['seg_map_path']), given['label_map'])
        confidence = read_ids(given['prob_map_path'])
        yield AutoLabel(info['img_path'], truth, label, confidence)


def apply_map(values: np.ndarray, label_map: dict) -> np.ndarray:
    """Map values in a file (H, W) to classes; others are ignored."""
    table = np.full(256, 255, np.uint8)
    table[[*label_map]] = [*label_map.values()]
    return table[values]


def label_quality(data: Path, labels: str) -> dict:
    """Compare a folder of auto-labels with the truth.

    Args:
        data (Path): Folder of the data set.
        labels (str): Folder in it with the labels of its ``train_extra``.

    Returns:
        dict: ``mIoU`` of all of them, in percent; ``coverage`` and
        ``precision`` by threshold, shares of 1: how many of the pixels are
        kept, and how many of those are right.
    """
    classes = dataset_of(FINE_ONLY.path, 'val_dataloader', data).metainfo[
        'classes'
    ]
    total, pairs = 0, []
    kept, right = (dict.fromkeys(THRESHOLDS, 0) for _ in range(2))
    for each in read_autolabels(data, labels):
        counts = each.truth != 255
        hits = each.label == each.truth
        total += int(counts.sum())
        for threshold in THRESHOLDS:
            mask = counts & is_kept(threshold)[each.confidence]
            kept[threshold] += int(mask.sum())
            right[threshold] += int(hits[mask].sum())
        pairs.append((each.label, each.truth))
    iou = class_iou(pairs, len(classes))
    return dict(
        mIoU=round(float(iou[iou == iou].mean()), 2),
        coverage={str(t): round(kept[t] / total, 4) for t in THRESHOLDS},
        precision={
            str(t): round(right[t] / max(kept[t], 1), 4) for t in THRESHOLDS
        },
    )
