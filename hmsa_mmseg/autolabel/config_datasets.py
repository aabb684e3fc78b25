"""Data sets of a config, whatever wraps them, and their images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

#: How the command lines name a data loader of a config.
PREFIX = 'config:'


class Image(NamedTuple):
    """An image of a data set.

    ``name`` is its path relative to the data set's folder of images, with
    ``/``, without the suffix: what its label is called; ``index`` is its
    number in its data set.
    """

    path: str
    name: str
    index: int


def build_leaves(cfg: Config, key: str, **changes) -> list[BaseDataset]:
    """Build the data sets of a loader that hold images of their own.

    Args:
        cfg (Config): Of a training or test run.
        key (str): Name of the loader, such as ``val_dataloader``, also with
            ``config:`` before it.
        **changes: Arguments of each data set to set, such as
            ``test_mode=True``, with which labels need not exist.

    Raises:
        OSError, ValueError: If there is no such loader, or files that the
            data sets need are not there.
    """
    key = key.removeprefix(PREFIX)
    loader = cfg.get(key)
    if not isinstance(loader, dict) or not loader.get('dataset'):
        found = [name for name in cfg if name.endswith('_dataloader')]
        raise ValueError(
            f'{cfg.filename}: {key}.dataset is missing; expected the name of '
            f'a data loader of the config, of which it has {found}'
        )
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return [
        DATASETS.build({**leaf, **changes})
        for leaf in leaf_configs(loader['dataset'])
    ]


def leaf_configs(dataset: dict) -> Iterator[dict]:
    """Yield the configs of data sets within those that wrap them."""
    if dataset.get('dataset'):
        yield from leaf_configs(dataset['dataset'])
    elif dataset.get('datasets'):
        for part in dataset['datasets']:
            yield from leaf_configs(part)
    else:
        yield dict(dataset)


def images_of(leaf: BaseDataset) -> list[Image]:
    """List the images of a data set, from :func:`build_leaves`, in order."""
    folder = leaf.data_prefix.get('img_path') or ''
    images = []
    for index in range(len(leaf)):
        path = leaf.get_data_info(index)['img_path']
        name = PurePath(relative_path(path, folder)).with_suffix('')
        images.append(Image(path, name.as_posix(), index))
    return images


def relative_path(path: str, folder: str) -> str:
    """Path of an image relative to its data set's folder, if there is one."""
    relative = os.path.relpath(path, folder) if folder else path
    # A list of images may point outside of the folder.
    if relative.startswith('..') or os.path.isabs(relative):
        relative = os.path.basename(path)
    return PurePath(relative).as_posix()
