"""A converted config for one's own classes and data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.class_names import ClassNames

from .conversion import Conversion
from .nested import LOADERS, nested, transforms_of

_SPLITS = dict(zip(LOADERS, ('train', 'val', 'test')))
_NAMES = ('train', 'val')
_IMAGES, _MASKS = 'images', 'masks'
LAYOUT = f"""expected

    {_IMAGES}/train/a.jpg     {_MASKS}/train/a.png
    {_IMAGES}/val/b.jpg       {_MASKS}/val/b.png

or, with all images under {_IMAGES} and masks under {_MASKS}, lists of names
train.txt and val.txt; test likewise, if there is such a split"""


def set_num_classes(
    new: Conversion, num_classes: int, same_classes: bool = True
) -> None:
    """Set the number of classes of all that have the model's.

    Others stay, such as the two of STDC's boundaries. Weights of other
    classes in losses are left out.
    """
    if num_classes < 2:
        raise ValueError(f'num_classes must be 2 or more, got {num_classes}')
    cfg, changes = new
    head = cfg.model.decode_head
    old = _num_classes(head)
    keeps_weights = same_classes and num_classes == old
    parts = {
        f'model.{name}': cfg.model.get(name)
        for name in ('decode_head', 'auxiliary_head')
    }
    # LoadSegLabels counts classes too.
    parts.update({name: cfg.get(name) for name in (*LOADERS, 'tta_pipeline')})
    for name, part in parts.items():
        for key, one in nested(part, name):
            if one.get('num_classes') == old:
                one['num_classes'] = num_classes
            if one.get('class_weight') is not None and not keeps_weights:
                changes[f'{key}.class_weight'] = _without_weights(one)
    if num_classes != old:
        inside = '.seg_head' if 'seg_head' in head else ''
        changes[f'model.decode_head{inside}.num_classes'] = (
            f'{num_classes}, was {old}'
        )


def _without_weights(loss: ConfigDict) -> str:
    """Take the weights of classes out of a loss, and say so."""
    weights = loss.pop('class_weight')
    if isinstance(weights, str):
        text = f'the weights of classes in {weights} were left out'
    else:
        text = f'the weights of {len(weights)} classes were left out'
    if str(loss.get('type')).endswith('ClassWeightedCrossEntropyLoss'):
        # It needs weights; with equal ones both are the same.
        loss.update(type='CrossEntropyLoss', avg_non_ignore=True)
        text += ', and CrossEntropyLoss takes the place of the weighted one'
    return text


def _num_classes(head: Mapping | Sequence) -> int:
    """The number of classes of the config of a head, or of a cascade."""
    if isinstance(head, Mapping):
        head = head.get('seg_head', head)
    if isinstance(head, Sequence):
        head = head[-1]
    return head.get('kernel_generate_head', head)['num_classes']


def set_data_root(new: Conversion, root: str) -> None:
    """Set the folder of the data, in place."""
    found = [
        one
        for loader in LOADERS
        for _, one in nested(new.cfg.get(loader))
        if 'data_root' in one
    ]
    roots = sorted({str(one['data_root']) for one in found})
    if len(roots) != 1:
        raise ValueError(
            f'the datasets of this config have the folders {roots}; expected '
            'one data_root, set them in the written config'
        )
    for one in found:
        one['data_root'] = root
    new.changes['data_root'] = f'{root}, was {roots[0]}'


def set_folder(new: Conversion, root: str, classes: ClassNames) -> None:
    """Let a config train and test on a folder, in place.

    Labels are read by ``LoadSegLabels``, which refuses what is no label, and
    scored by ``IoUMetric``. Without a test split the validation split is
    tested. Weights of classes in losses stay if the classes do.
    """
    cfg, changes = new
    has_lists = _has_lists(Path(root))
    count = len(classes.names)
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
        leaf = _leaf(cfg[loader].dataset, loader)
        same_classes = same_classes and _class_names(leaf) == classes.names
        changes[f'{loader}.dataset'] = f'was {leaf.type}'
        pipeline = leaf.get('pipeline') or []
        leaf.clear()
        leaf.update(type='HMSAFolderDataset', data_root=root)
        leaf.update(copy.deepcopy(metainfo))
        leaf.update(place)
        leaf.pipeline = pipeline
    for step in transforms_of(cfg, ('LoadAnnotations', 'LoadSegLabels')):
        step.clear()
        step.update(type='LoadSegLabels', num_classes=count)
    for name in ('val_evaluator', 'test_evaluator'):
        metric = ConfigDict(type='IoUMetric', iou_metrics=['mIoU'])
        if cfg.get(name) not in (None, metric):
            changes[name] = f'was {cfg[name].get("type")}'
            cfg[name] = metric
    set_num_classes(new, count, same_classes)


def _has_lists(root: Path) -> bool:
    """Whether a folder has lists of names, and not a folder per split."""
    if not root.is_dir():
        raise FileNotFoundError(f'the folder {root} does not exist')
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


def _leaf(dataset: ConfigDict, loader: str) -> ConfigDict:
    """The data set within its wrappers."""
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'datasets' in dataset or isinstance(dataset, list):
        raise ValueError(
            f'{loader}.dataset is put together of several; expected a zoo '
            'config with one'
        )
    return dataset
