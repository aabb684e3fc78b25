"""Settings of a config: which are read, and dicts within them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
#: What mmengine's Runner and mmseg's tools read. Other variables of a config
#: have only helped to build these.
READ = (
    *('custom_imports', 'default_scope', 'model'),
    *LOADERS,
    *('val_evaluator', 'test_evaluator', 'tta_model', 'tta_pipeline'),
    *('optim_wrapper', 'param_scheduler', 'auto_scale_lr'),
    *('train_cfg', 'val_cfg', 'test_cfg', 'default_hooks', 'custom_hooks'),
    *('env_cfg', 'randomness', 'visualizer', 'log_processor', 'log_level'),
    *('load_from', 'resume', 'find_unused_parameters', 'model_wrapper_cfg'),
    *('runner_type', 'strategy', 'compile', 'launcher', 'experiment_name'),
    'work_dir',
)


def nested(value: Any, key: str = '') -> Iterator[tuple[str, ConfigDict]]:
    """Find all dicts in a setting, with dotted keys, outer ones first."""
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
    """Find the steps of pipelines that are of some types."""
    for name in names:
        for _, step in nested(cfg.get(name)):
            if step.get('type') in types:
                yield step
