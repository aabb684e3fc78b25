"""A converted config for a folder of one's own images and masks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.class_names import ClassNames

from .adaptation import set_num_classes
from .sizes import transforms_of

_SPLITS = dict(
    train_dataloader='train', val_dataloader='val', test_dataloader='test'
)
_NAMES = ('train', 'val')
_IMAGES, _MASKS = 'images', 'masks'
LAYOUT = f"""expected

    {_IMAGES}/train/a.jpg     {_MASKS}/train/a.png
    {_IMAGES}/val/b.jpg       {_MASKS}/val/b.png

or, with all images under {_IMAGES} and masks under {_MASKS}, lists of names
train.txt and val.txt; test likewise, if there is such a split"""


def set_folder(
    cfg: Config, root: str, classes: ClassNames, changes: dict[str, str]
) -> list[str]:
    """Let a config train and test on a folder, in place.

    Labels are read by ``LoadSegLabels``, which refuses what is no label, and
    scored by ``IoUMetric``. Without a test split the validation split is
    tested.

    Args:
        cfg (Config): A converted config.
        root (str): The folder, of a layout that :data:`LAYOUT` shows.
        classes (ClassNames): What the numbers in its masks mean.
        changes (dict[str, str]): Where to note what was changed.

    Returns:
        list[str]: What a user has to know: that there is no test split, and
        which weights of classes were left out.

    Raises:
        FileNotFoundError: If the folder has another layout.
        ValueError: If the config's data set is put together of several.
    """
    has_lists = _has_lists(Path(root))
    count = len(classes.names)
    told: list[str] = []
    same_classes = True
    metainfo: dict[str, Any] = dict(classes=classes.names)
    if classes.palette is not None:
        metainfo['palette'] = classes.palette
    for loader, split in _SPLITS.items():
        if cfg.get(loader) is None:
            continue
        place = _place(Path(root), split, has_lists)
        if place is None:
            place = _place(Path(root), 'val', has_lists)
            changes[loader] = (
                f'no {_IMAGES}/{split} with {_MASKS}/{split} and no '
                f'{split}.txt, so the validation split is taken'
            )
            told.append(f'{loader}: {changes[loader]}')
        [leaf] = _leaves(cfg[loader].dataset, loader)
        same_classes = same_classes and _class_names(leaf) == classes.names
        old = leaf.type
        pipeline = leaf.get('pipeline') or []
        leaf.clear()
        leaf.type = 'HMSAFolderDataset'
        leaf.data_root = root
        leaf.update(copy.deepcopy(metainfo))
        leaf.update(place)
        leaf.pipeline = pipeline
        changes[f'{loader}.dataset'] = f'was {old}'
    cfg.data_root = root
    for step in transforms_of(cfg):
        if step.get('type') in ('LoadAnnotations', 'LoadSegLabels'):
            step.clear()
            step.update(type='LoadSegLabels', num_classes=count)
    for name in ('val_evaluator', 'test_evaluator'):
        if cfg.get(name) is not None:
            cfg[name] = ConfigDict(type='IoUMetric', iou_metrics=['mIoU'])
    return told + set_num_classes(cfg, count, changes, same_classes)


def _has_lists(root: Path) -> bool:
    """Whether a folder has lists of names, and not a folder per split."""
    folders = [root / kind for kind in (_IMAGES, _MASKS)]
    if all((path / split).is_dir() for path in folders for split in _NAMES):
        return False
    lists = [root / f'{split}.txt' for split in _NAMES]
    if all(path.is_dir() for path in folders) and all(
        path.is_file() for path in lists
    ):
        return True
    raise FileNotFoundError(f'{root} has another layout: {LAYOUT}')


def _place(root: Path, split: str, has_lists: bool) -> ConfigDict | None:
    """Settings of a data set for a split; None if the folder has it not."""
    has_list = (root / f'{split}.txt').is_file()
    folders = [root / kind / split for kind in (_IMAGES, _MASKS)]
    has_folders = all(path.is_dir() for path in folders)
    if has_list and (has_lists or not has_folders):
        where, settings = '', ConfigDict(ann_file=f'{split}.txt')
    elif has_folders:
        where, settings = f'/{split}', ConfigDict()
    else:
        return None
    settings.data_prefix = ConfigDict(
        img_path=_IMAGES + where, seg_map_path=_MASKS + where
    )
    return settings


def _class_names(dataset: ConfigDict) -> tuple[str, ...]:
    """Names that a data set has by its settings or its class, if any."""
    kind = dataset.type
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return tuple(
        dataset.get('classes')
        or (dataset.get('metainfo') or {}).get('classes')
        or getattr(kind, 'METAINFO', {}).get('classes', ())
    )


def _leaves(dataset: ConfigDict, loader: str) -> list[ConfigDict]:
    """The data set within its wrappers.

    Raises:
        ValueError: If it is put together of several.
    """
    inner = dataset
    while 'dataset' in inner:
        inner = inner.dataset
    if 'datasets' in inner or isinstance(inner, list):
        raise ValueError(
            f'{loader}.dataset is put together of several; expected a zoo '
            'config with one'
        )
    return [inner]
