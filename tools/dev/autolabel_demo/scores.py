"""Scores of a model, from what mmseg's tools have written."""

from __future__ import annotations

import json
import math
from pathlib import Path

from demo.methods import class_iou, read_ids

from .recipes import FINE_ONLY
from .truth import dataset_of, read_truth

#: Key of ``TeacherLeakageHook`` in the results of test.py.
LEAKAGE = 'teacher_saw_images'


def val_miou(work_dir: Path) -> float:
    """Read the last mIoU on the val split, in percent.

    Args:
        work_dir (Path): Of train.py.

    Raises:
        RuntimeError: If train.py has logged none.
    """
    values = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        values += [line['mIoU'] for line in lines if 'mIoU' in line]
    if not values:
        raise RuntimeError(f'{work_dir}: train.py has logged no mIoU')
    return round(float(values[-1]), 2)


def score(data: Path, predictions: Path, result: dict) -> dict:
    """Count the IoU of each class, and compare it with test.py's mean.

    Args:
        data (Path): Folder of the data set.
        predictions (Path): Folder of the predictions of its test split.
        result (dict): As test.py has written it.

    Returns:
        dict: ``mIoU`` and ``IoU``, percent, and what
        ``TeacherLeakageHook`` has found, if it was there.

    Raises:
        RuntimeError: If the two differ.
    """
    dataset = dataset_of(FINE_ONLY.path, 'test_dataloader', data)
    classes = dataset.metainfo['classes']
    iou = class_iou(
        (
            (read_ids(predictions / Path(info['img_path']).name), truth)
            for info, truth in read_truth(dataset)
        ),
        len(classes),
    )
    counted = iou[iou == iou]
    if abs(counted.mean() - result['mIoU']) > 0.01:  # test.py rounds to 0.01
        raise RuntimeError(
            f'{predictions}: test.py reports mIoU {result["mIoU"]}, the '
            f'predictions have {counted.mean():.2f}'
        )
    values = [None if math.isnan(v) else round(float(v), 2) for v in iou]
    row = dict(mIoU=round(result['mIoU'], 2), IoU=dict(zip(classes, values)))
    if LEAKAGE in result:
        row[LEAKAGE] = result[LEAKAGE]
    return row
