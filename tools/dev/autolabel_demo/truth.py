"""True labels, by the data sets of the demo's configs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from demo.methods import read_ids, to_class_ids


def dataset_of(
    config: Path, loader: str, data: Path, labels: str | None = None
):
    """Build the data set of a loader, without a pipeline.

    Args:
        config (Path): The config's file.
        loader (str): Such as ``test_dataloader``. If it joins several data
            sets, the last one is meant: the first is the fine part.
        data (Path): Folder of the data set.
        labels (str, optional): Folder in it with the labels, in place of the
            config's. Defaults to None.

    Returns:
        BaseSegDataset: Its items are dicts of paths.
    """
    # First: it makes the rest of the stack importable.
    import hmsa_mmseg  # noqa: F401  # isort: skip

    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    from hmsa_mmseg.autolabel.config_datasets import leaf_configs
    from hmsa_mmseg.utils.loading import read_config

    init_default_scope('mmseg')
    *_, leaf = leaf_configs(read_config(str(config))[loader].dataset)
    # Few images: not packed for workers, which takes longer.
    leaf.update(data_root=str(data), pipeline=[], serialize_data=False)
    if labels is not None:
        prefix = dict(leaf['data_prefix'], seg_map_path=labels)
        leaf['data_prefix'] = prefix
    return DATASETS.build(leaf)


def read_truth(dataset) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield paths and true classes, uint8 (H, W); 255 is ignored."""
    for info in dataset:
        train_ids = read_ids(info['seg_map_path'])
        yield info, to_class_ids(train_ids, dataset)
