"""Labels and predictions, read by the data sets of the configs."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from hmsa_mmseg.analysis.confusion_matrix import (
    confusion_of_dataset,
    match_predictions,
)
from hmsa_mmseg.autolabel.config_datasets import leaf_configs
from hmsa_mmseg.utils.confusion import scores

LOAD = ('LoadImageFromFile', 'LoadAnnotations', 'LoadSegLabels')


def dataset(
    config: Path,
    loader: str,
    root: Path,
    labels: str | None = None,
    pack: bool = False,
):
    """Build the data set of a loader with nothing but loading.

    Of several, the last one. ``root`` is what the config's paths are relative
    to, ``labels`` another folder of labels. Its items are dicts with ``img``,
    uint8 (H, W, 3) in BGR, and ``gt_seg_map``, uint8 (H, W), 255 where it is
    ignored; with ``pack`` data samples, as for a model.
    """
    init_default_scope('mmseg')
    *_, leaf = leaf_configs(Config.fromfile(config)[loader].dataset)
    leaf['data_root'] = str(root / leaf['data_root'])
    steps = [step for step in leaf['pipeline'] if step['type'] in LOAD]
    leaf['pipeline'] = [*steps, dict(type='PackSegInputs')] if pack else steps
    if labels is not None:
        leaf['data_prefix'] = {**leaf['data_prefix'], 'seg_map_path': labels}
    # Few images: not packed for workers, which takes longer.
    return DATASETS.build(dict(leaf, serialize_data=False))


def score(truth, predictions: Path, result: dict) -> dict:
    """Count the IoU of each class, and compare it with test.py's mean.

    ``mIoU``, and ``IoU`` by class, None for one that is in neither; percent.
    """
    maps = match_predictions(predictions, truth)
    found = scores(confusion_of_dataset(truth, maps))
    # test.py rounds to 0.01
    if not abs(found['mIoU'] - result['mIoU']) <= 0.01:
        raise SystemExit(
            f'{predictions}: test.py reports mIoU {result["mIoU"]}, the '
            f'predictions have {found["mIoU"]:.2f}'
        )
    iou = [None if math.isnan(v) else round(float(v), 2) for v in found['IoU']]
    classes = truth.metainfo['classes']
    return dict(mIoU=round(result['mIoU'], 2), IoU=dict(zip(classes, iou)))


def mean_rows(seeds: list[dict]) -> dict:
    """Average rows of :func:`score`, by key, over seeds."""

    def mean(values):
        values = [value for value in values if value is not None]
        return fmean(values) if values else None

    return {
        key: dict(
            mIoU=mean([rows[key]['mIoU'] for rows in seeds]),
            IoU={
                name: mean([rows[key]['IoU'][name] for rows in seeds])
                for name in row['IoU']
            },
        )
        for key, row in seeds[0].items()
    }
