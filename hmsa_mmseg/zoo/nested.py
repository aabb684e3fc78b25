"""Dicts within dicts and lists of a config."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def nested(value: Any, key: str = '') -> Iterator[tuple[str, ConfigDict]]:
    """Find all dicts in a setting.

    Args:
        value (Any): The setting.
        key (str): Its dotted key. Defaults to ''.

    Yields:
        tuple[str, ConfigDict]: Dotted key of a dict and the dict, which may
        be changed, outer ones first.
    """
    if isinstance(value, Mapping):
        yield key, value
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        return
    for name, item in items:
        yield from nested(item, f'{key}.{name}')


def transforms_of(
    cfg: Config,
    types: Collection[str],
    names: Sequence[str] = (*LOADERS, 'tta_pipeline'),
) -> Iterator[ConfigDict]:
    """Find the steps of pipelines that are of some types.

    Args:
        cfg (Config): A training run's.
        types (Collection[str]): Names of transforms.
        names (Sequence[str]): Where to look. Defaults to all loaders and the
            pipeline of ``--tta``.

    Yields:
        ConfigDict: A step, which may be changed.
    """
    for name in names:
        for _, step in nested(cfg.get(name)):
            if step.get('type') in types:
                yield step
