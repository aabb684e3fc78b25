"""A converted config for a folder of one's own images and masks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from .adaptation import set_num_classes

_SPLITS = dict(
    train_dataloader='train', val_dataloader='val', test_dataloader='val'
)
_NAMES = ('train', 'val')
_IMAGES, _MASKS = 'images', 'masks'
LAYOUT = f"""expected

    {_IMAGES}/train/a.jpg     {_MASKS}/train/a.png
    {_IMAGES}/val/b.jpg       {_MASKS}/val/b.png

or, with all images under {_IMAGES} and masks under {_MASKS}, lists of names
train.txt and val.txt"""
_CROPS = ('RandomCrop', 'CentroidRandomCrop')
# Of the zoo's recipes for Cityscapes and ADE20K.
_RATIO_RANGE = (0.5, 2.0)


class ClassNames(NamedTuple):
    """The classes of a data set.

    Attributes:
        names (tuple[str]): In the order of their numbers.
        palette (list[list[int]] | None): Their colours, RGB; None where none
            are given.
    """

    names: tuple[str, ...]
    palette: list[list[int]] | None


def read_classes(text: str) -> ClassNames:
    """Read the classes of a command line or a file.

    Args:
        text (str): ``road,tree,sky``, or the path of a text file with a
            class in each line, ``road`` or ``road 128 64 128`` with its
            colour.

    Returns:
        ClassNames: The classes.

    Raises:
        ValueError: If there are fewer than two, a name occurs twice, or some
            have a colour and some none.
    """
    path = Path(text)
    if not path.is_file():
        names, colors = [name.strip() for name in text.split(',')], []
    else:
        lines = [line.split() for line in path.read_text().splitlines()]
        rows = [_class_line(line, text) for line in lines if line]
        names = [name for name, _ in rows]
        colors = [color for _, color in rows if color]
    names = [name for name in names if name]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f'classes: expected two or more different names, got {names}'
        )
    if colors and len(colors) < len(names):
        raise ValueError(
            f'{text}: {len(colors)} of {len(names)} classes have a colour; '
            'expected all or none, as "road 128 64 128"'
        )
    return ClassNames(tuple(names), colors or None)


def _class_line(words: Sequence[str], path: str) -> tuple[str, list[int]]:
    """Split a line into name and colour; names may have several words."""
    numbers = words[-3:]
    if len(words) < 4 or not all(word.isdigit() for word in numbers):
        return ' '.join(words), []
    color = [int(word) for word in numbers]
    if max(color) > 255:
        raise ValueError(
            f'{path}: a colour is three numbers of 0 to 255, got {color}'
        )
    return ' '.join(words[:-3]), color


def set_folder(
    cfg: Config, root: str, classes: ClassNames, changes: dict[str, str]
) -> None:
    """Let a config train and test on a folder, in place.

    Labels are read by ``LoadSegLabels``, which refuses what is no label, and
    scored by ``IoUMetric``.

    Args:
        cfg (Config): A converted config.
        root (str): The folder, of a layout that :data:`LAYOUT` shows.
        classes (ClassNames): What the numbers in its masks mean.
        changes (dict[str, str]): Where to note what was changed.

    Raises:
        FileNotFoundError: If the folder has another layout.
        ValueError: If the config's data set is put together of several.
    """
    has_lists = _has_lists(Path(root))
    count = len(classes.names)
    metainfo: dict[str, Any] = dict(classes=classes.names)
    if classes.palette is not None:
        metainfo['palette'] = classes.palette
    for loader, split in _SPLITS.items():
        if cfg.get(loader) is None:
            continue
        [leaf] = _leaves(cfg[loader].dataset, loader)
        old = leaf.type
        pipeline = leaf.get('pipeline') or []
        leaf.clear()
        leaf.type = 'HMSAFolderDataset'
        leaf.data_root = root
        leaf.update(copy.deepcopy(metainfo))
        where = '' if has_lists else f'/{split}'
        leaf.data_prefix = ConfigDict(
            img_path=_IMAGES + where, seg_map_path=_MASKS + where
        )
        if has_lists:
            leaf.ann_file = f'{split}.txt'
        leaf.pipeline = pipeline
        changes[f'{loader}.dataset'] = f'was {old}'
    cfg.data_root = root
    for step in _transforms(cfg):
        if step.get('type') == 'LoadAnnotations':
            step.clear()
            step.update(type='LoadSegLabels', num_classes=count)
    for name in ('val_evaluator', 'test_evaluator'):
        if cfg.get(name) is not None:
            cfg[name] = ConfigDict(type='IoUMetric', iou_metrics=['mIoU'])
    set_num_classes(cfg, count, changes)


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


def set_image_scale(
    cfg: Config, scale: Sequence[int], changes: dict[str, str]
) -> None:
    """Resize images to another size than the zoo's, in place.

    Args:
        cfg (Config): A converted config.
        scale (Sequence[int]): Width and height that an image is fitted into;
            in training it is varied by the zoo's range.
        changes (dict[str, str]): Where to note what was changed.
    """
    scale = tuple(scale)
    for step in _transforms(cfg):
        if step.get('type') in ('Resize', 'RandomResize'):
            step.scale = scale
        elif step.get('type') == 'RandomChoiceResize':
            step.clear()
            step.update(
                type='RandomResize',
                scale=scale,
                ratio_range=_RATIO_RANGE,
                keep_ratio=True,
            )
    changes['train_dataloader.dataset.pipeline'] = (
        f'images are resized to {scale[0]} x {scale[1]}'
    )


def set_crop_size(
    cfg: Config, size: Sequence[int], changes: dict[str, str]
) -> None:
    """Train on crops of another size than the zoo's, in place.

    Windows at test time, if there are any, change with them.

    Args:
        cfg (Config): A converted config.
        size (Sequence[int]): Height and width.
        changes (dict[str, str]): Where to note what was changed.

    Raises:
        ValueError: If the config trains without crops.
    """
    size = tuple(size)
    old = None
    for step in _transforms(cfg):
        if step.get('type') in _CROPS:
            old = tuple(step.crop_size)
            step.crop_size = size
    if old is None:
        raise ValueError(
            'the training pipeline has none of '
            f'{", ".join(_CROPS)}; set the size in the written config'
        )
    for holder in (cfg, cfg.model):
        if holder.get('data_preprocessor') is not None:
            holder.data_preprocessor.size = size
    cfg.crop_size = size
    test_cfg = cfg.model.test_cfg
    if test_cfg.mode == 'slide':
        stride = [
            max(round(step * new / before), 1)
            for step, new, before in zip(
                test_cfg.stride, size, test_cfg.crop_size
            )
        ]
        test_cfg.crop_size, test_cfg.stride = size, tuple(stride)
    changes['crop_size'] = f'was {old}'


def _transforms(cfg: Config) -> Iterator[ConfigDict]:
    """All steps of all pipelines, nested ones too."""

    def visit(value: Any) -> Iterator[ConfigDict]:
        if isinstance(value, Mapping):
            yield value
            value = [
                value.get(key)
                for key in ('transforms', 'transform', 'pipeline', 'dataset')
            ]
        if isinstance(value, (list, tuple)):
            for item in value:
                yield from visit(item)

    for loader in _SPLITS:
        if cfg.get(loader) is not None:
            yield from visit(cfg[loader].get('dataset'))
    for name in ('train_pipeline', 'test_pipeline', 'tta_pipeline'):
        yield from visit(cfg.get(name))
