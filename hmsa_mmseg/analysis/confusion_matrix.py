"""Which classes a model takes for which, counted from its written maps.

Shape shorthand in this module:
    K: classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.structures import SegDataSample
from PIL import Image

from hmsa_mmseg.datasets import leaf_datasets
from hmsa_mmseg.utils.confusion import count_confusion, divide

SUFFIX = '.png'
# Names in an error message.
MAX_NAMED = 5


def match_predictions(
    folder: str | os.PathLike, dataset: BaseDataset
) -> list[Path]:
    """Find the predicted map of each image of a data set.

    ``test.py --out`` names a map, ``.png``, by its image, without the folder.
    They are given in the order of the data set.

    Raises:
        OSError: If the folder cannot be read.
        ValueError: If images share a name, or a map is missing or of no
            image, naming them.
    """
    folder = Path(folder)
    found = {p.stem: p for p in folder.iterdir() if p.suffix == SUFFIX}
    wanted = [
        Path(dataset.get_data_info(i)['img_path']).stem
        for i in range(len(dataset))
    ]
    twice = [name for name, count in Counter(wanted).items() if count > 1]
    if twice:
        raise ValueError(
            f'images of the data set share a file name, so that their maps '
            f'overwrite each other in {folder}: {_some(twice)}'
        )
    missing = [name + SUFFIX for name in wanted if name not in found]
    extra = [found[name].name for name in sorted({*found} - {*wanted})]
    parts = []
    if missing:
        parts.append(f'{len(missing)} are missing: {_some(missing)}')
    if extra:
        parts.append(f'{len(extra)} belong to no image: {_some(extra)}')
    if parts:
        raise ValueError(
            f'{folder}: expected a map for each of the {len(wanted)} images '
            f'of the data set, of the same name; {"; ".join(parts)}'
        )
    return [found[name] for name in wanted]


def confusion_of_dataset(
    dataset: BaseDataset,
    maps: Iterable[Path],
    report: Callable[[], Any] = lambda: None,
) -> np.ndarray:
    """Add up the confusion of all images.

    Args:
        dataset (BaseDataset): Its pipeline loads the labels, and brings them
            to the size at which the maps were written.
        maps (Iterable[Path]): Predicted maps, in the order of the data set.
        report (Callable, optional): Called after each image.

    Returns:
        ndarray: int64 (K, K), as of :func:`count_confusion`.

    Raises:
        ValueError: If a map is no map of classes or does not fit its label,
            naming the file.
    """
    num_classes = len(dataset.metainfo['classes'])
    # 255 is mmseg's default.
    leaf = next(leaf_datasets(dataset))
    ignore_index = getattr(leaf, 'ignore_index', 255)
    total = np.zeros((num_classes, num_classes), np.int64)
    for i, path in enumerate(maps):
        sample = dataset[i]['data_samples']
        try:
            total += count_confusion(
                _label(sample),
                _prediction(path, sample),
                num_classes,
                ignore_index,
            )
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        report()
    return total


def _label(sample: SegDataSample) -> np.ndarray:
    if 'gt_sem_seg' not in sample:
        raise ValueError(
            f'no label of {sample.img_path}: the pipeline of '
            'test_dataloader.dataset has no LoadAnnotations'
        )
    return sample.gt_sem_seg.data[0].numpy()


def _prediction(path: Path, sample: SegDataSample) -> np.ndarray:
    with Image.open(path) as image:
        prediction = np.array(image).astype(np.int64)
    if prediction.ndim != 2:
        raise ValueError(
            f'expected a map of classes, one channel, got {image.mode}'
        )
    # The labels are as the pipeline left them, 1 lower; IoUMetric writes
    # predictions as the files of the data set count.
    if sample.metainfo.get('reduce_zero_label', False):
        prediction -= 1
    return prediction


def normalised(matrix: np.ndarray, by: str) -> np.ndarray:
    """Turn counts (K, K) into percent of their row or column.

    By ``rows``, of the pixels of each true class, or ``columns``, of those of
    each predicted one: float64, NaN where one is empty. By ``none`` it is the
    matrix itself.
    """
    if by == 'none':
        return matrix
    total = matrix.sum(axis=dict(rows=1, columns=0)[by], keepdims=True)
    return 100 * divide(matrix, total)


def _some(names: list[str]) -> str:
    more = f' and {len(names) - MAX_NAMED} more'
    shown = ', '.join(names[:MAX_NAMED])
    return shown + (more if len(names) > MAX_NAMED else '')
