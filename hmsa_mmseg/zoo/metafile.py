"""What mmseg has published about the models of its zoo.

The installed mmseg carries it in ``.mim/configs/<family>/metafile.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .configs import config_root

# Data sets of which the name of a config tells. In mmseg 1.2.2 twelve rows
# of OCRNet have a heading of its README, `# HRNet backbone`, as `Dataset`.
_IN_NAMES = {'cityscapes': 'Cityscapes'}
# Of names of configs: the weights they start from saw more than ImageNet-1k.
_LARGE_PRETRAINING = {'in22k': 'ImageNet-22k', 'setr_vit-l': 'ImageNet-21k'}
# The parser in C, where PyYAML has it, reads the zoo in a tenth of the time.
_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


class Published(NamedTuple):
    """A model of the zoo and its results, as published.

    Attributes:
        name (str): Of the config, without ``.py``.
        dataset (str): On which it was tested.
        miou (float | None): In percent, at one scale.
        miou_ms_flip (float | None): In percent, mean over scales and flips.
        memory_gb (float | None): Most memory of a GPU in training.
        resources (str | None): What it was trained on, such as
            ``4x V100 GPUS``.
        weights (str | None): Address of the checkpoint.
        source (str): The metafile, as ``<family>/metafile.yaml``.
        extra_data (str): Data beside the data set and ImageNet-1k.
    """

    name: str
    dataset: str
    miou: float | None
    miou_ms_flip: float | None
    memory_gb: float | None
    resources: str | None
    weights: str | None
    source: str
    extra_data: str


def read_metafile(path: Path) -> dict[str, Published]:
    """Read the models of one metafile.

    Args:
        path (Path): ``<family>/metafile.yaml``.

    Returns:
        dict[str, Published]: By name, of those with results.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no metafile.
    """
    content = yaml.load(path.read_text(), _LOADER)
    if not isinstance(content, Mapping) or 'Models' not in content:
        raise ValueError(f'{path}: expected a metafile with a list of Models')
    source = f'{path.parent.name}/{path.name}'
    found = {}
    for model in content['Models']:
        results = model.get('Results')
        # One result or a list of them.
        if isinstance(results, list):
            results = results[0] if results else None
        if results:
            found[model['Name']] = _published(model, results, source)
    return found


def _published(
    model: Mapping[str, Any], results: Mapping[str, Any], source: str
) -> Published:
    name, metrics = model['Name'], results.get('Metrics', {})
    metadata = model.get('Metadata', {})
    return Published(
        name=name,
        dataset=_dataset(name, results.get('Dataset', '')),
        miou=metrics.get('mIoU'),
        miou_ms_flip=metrics.get('mIoU(ms+flip)'),
        memory_gb=metadata.get('Memory (GB)'),
        resources=metadata.get('Training Resources'),
        weights=model.get('Weights'),
        source=source,
        extra_data=next(
            (data for key, data in _LARGE_PRETRAINING.items() if key in name),
            'none',
        ),
    )


def _dataset(name: str, stated: str) -> str:
    if not stated.startswith('#'):
        return stated
    return next(
        (dataset for key, dataset in _IN_NAMES.items() if key in name), ''
    )


@lru_cache
def published(root: Path | None = None) -> dict[str, Published]:
    """Read all metafiles of the zoo.

    Args:
        root (Path, optional): Folder of the zoo's families. Defaults to that
            of the installed mmseg.

    Returns:
        dict[str, Published]: By name of the config.
    """
    root = config_root() if root is None else root
    found: dict[str, Published] = {}
    for path in sorted(root.glob('*/metafile.y*ml')):
        found.update(read_metafile(path))
    return found
