"""True labels, by the data sets of the demo's configs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from demo.methods import read_ids, to_class_ids


def dataset_of(config: Path, loader: str, data: Path):
    """Build the data set of a loader, without a pipeline.

    Args:
        config (Path): The config's file.
        loader (str): Such as ``test_dataloader``.
        data (Path): Folder of the data set.

    Returns:
        HMSACityscapesDataset: Its items are dicts of paths.
    """
    # First: it makes the rest of the stack importable.
    import hmsa_mmseg  # noqa: F401  # isort: skip

    from hmsa_mmseg.autolabel.config_datasets import build_leaves
    from hmsa_mmseg.utils.loading import read_config

    cfg = read_config(str(config))
    # Of several, the last one: the first is the fine part.
    *_, leaf = build_leaves(cfg, loader, data_root=str(data), pipeline=[])
    return leaf


def read_truth(dataset) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield paths and true classes, uint8 (H, W); 255 is ignored."""
    for info in dataset:
        train_ids = read_ids(info['seg_map_path'])
        yield info, to_class_ids(train_ids, dataset)
