"""Class numbers as a data set's own label files have them."""

from __future__ import annotations

import inspect

import numpy as np
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS
from hmsa_mmseg.utils.loading import find_test_set

from .errors import InferError


def read_label_ids(
    cfg: Config, num_classes: int, option: str = '--label-ids'
) -> np.ndarray:
    """Find the numbers that a data set's own label files have for classes.

    Args:
        cfg (Config): Its test set is looked at.
        num_classes (int): Of the model.
        option (str): That asks for them, for the message. Defaults to
            '--label-ids'.

    Returns:
        ndarray: int64 (K,). Cityscapes: the label ids of its benchmark
        (cityscapesScripts, helpers/labels.py); data sets with
        ``reduce_zero_label``, such as ADE20K: one more than the class.

    Raises:
        InferError: If they are not known.
    """
    dataset = find_test_set(cfg)
    known = dataset.get('type')
    known = DATASETS.get(known) if isinstance(known, str) else known
    if inspect.isclass(known):
        if issubclass(known, CityscapesDataset):
            ids = np.array(EVALUATED_IDS)
            if len(ids) == num_classes:
                return ids
        default = inspect.signature(known.__init__).parameters.get(
            'reduce_zero_label'
        )
        reduces = default is not None and default.default is True
        if dataset.get('reduce_zero_label', reduces) is True:
            return np.arange(num_classes) + 1
    raise InferError(
        f'{option}: test_dataloader.dataset is {dataset.get("type")}, the '
        f'model has {num_classes} classes; expected a Cityscapes data set '
        'with its 19 classes, or one with reduce_zero_label=True. Of others '
        'the number of the class is what is known'
    )
