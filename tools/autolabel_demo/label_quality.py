"""What auto-labels are worth, by the true labels that nobody trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from demo.methods import class_iou, read_ids, to_class_ids

from hmsa_mmseg.autolabel.encoding import is_kept
from hmsa_mmseg.autolabel.layout import prob_file

from .recipes import ALL_TRUE
from .truth import dataset_of, read_truth

THRESHOLDS = (0.0, 0.5, 0.9)


def label_quality(data: Path, labels: Path) -> dict:
    """Compare a folder of auto-labels with the truth.

    Args:
        data (Path): Folder of the data set.
        labels (Path): Folder of the labels of its ``train_extra``.

    Returns:
        dict: ``mIoU`` of all of them, in percent; ``coverage`` and
        ``precision`` by threshold, shares of 1: how many of the pixels are
        kept, and how many of those are right.
    """
    dataset = dataset_of(ALL_TRUE.path, 'train_dataloader', data)
    classes = dataset.metainfo['classes']
    total, kept, right, pairs = 0, {}, {}, []
    for info, truth in read_truth(dataset):
        name = name_of(info['img_path'])
        label = read_label(labels, name, dataset)
        confidence = read_ids(labels / prob_file(name))
        counts = truth != dataset.ignore_index
        total += counts.sum()
        for threshold in THRESHOLDS:
            mask = counts & is_kept(threshold)[confidence]
            hits = (label == truth)[mask].sum()
            kept[threshold] = kept.get(threshold, 0) + mask.sum()
            right[threshold] = right.get(threshold, 0) + hits
        pairs.append((label, truth))
    iou = class_iou(pairs, len(classes))
    return dict(
        mIoU=round(float(iou[iou == iou].mean()), 2),
        coverage={
            str(t): round(float(kept[t] / total), 4) for t in THRESHOLDS
        },
        precision={
            str(t): round(float(right[t] / max(kept[t], 1)), 4)
            for t in THRESHOLDS
        },
    )


def name_of(image: str) -> str:
    """Name of an image's label: its path below ``train_extra``."""
    path = Path(image)
    return f'{path.parent.name}/{path.stem}'


def read_label(labels: Path, name: str, dataset) -> np.ndarray:
    """Read an auto-label as classes, uint8 (H, W).

    Args:
        labels (Path): Folder of the labels.
        name (str): From :func:`name_of`.
        dataset (HMSACityscapesDataset): With the classes.
    """
    from hmsa_mmseg.datasets.cityscapes import ID_TO_TRAIN_ID

    table = np.full(256, 255, np.uint8)
    for label_id, train_id in ID_TO_TRAIN_ID.items():
        table[label_id] = train_id
    return to_class_ids(table[read_ids(labels / f'{name}.png')], dataset)
