"""Options of mmseg's tools that put a config to use in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LOADERS = (
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'fine_dataloader',
    'coarse_dataloader',
)
#: Its labels are those of a round.
AUTOLABELS = 'CityscapesAutoLabelDataset'


def training_options(
    config: Path, data: Path, labels: str, seed: int, iters: int
) -> list[str]:
    """Options of train.py for a config of the demo.

    Args:
        config (Path): Its file.
        data (Path): Folder of the data set.
        labels (str): Folder in it with the auto-labels to learn from, if the
            config learns from any.
        seed (int): Of the training.
        iters (int): Its length.

    Returns:
        list[str]: For ``--cfg-options``.
    """
    from hmsa_mmseg.utils.loading import read_config

    cfg = read_config(str(config))
    options = [
        f'randomness.seed={seed}',
        f'train_cfg.max_iters={iters}',
        f'train_cfg.val_interval={iters}',
        f'param_scheduler.0.end={iters}',
    ]
    for loader in LOADERS:
        key = f'{loader}.dataset'
        for name, leaf in _leaves(key, cfg[loader]['dataset']):
            options.append(f'{name}.data_root={data}')
            if leaf['type'] == AUTOLABELS:
                options.append(f'{name}.data_prefix.seg_map_path={labels}')
    return options


def _leaves(key: str, dataset: dict) -> Iterator[tuple[str, dict]]:
    """Yield the data sets that hold images, with their places."""
    if 'dataset' in dataset:
        yield from _leaves(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for number, part in enumerate(dataset['datasets']):
            yield from _leaves(f'{key}.datasets.{number}', part)
    else:
        yield key, dataset
