"""Sizes of images and crops in the pipelines of a converted config."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_PIPELINES = ('train_pipeline', 'test_pipeline', 'tta_pipeline')
_CROPS = ('RandomCrop', 'CentroidRandomCrop')
# Of the zoo's recipes for Cityscapes and ADE20K.
_RATIO_RANGE = (0.5, 2.0)


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
    for step in transforms_of(cfg):
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


def resize_as_tested(cfg: Config, changes: dict[str, str]) -> None:
    """Train on images of the size of the validation, in place.

    Args:
        cfg (Config): A converted config.
        changes (dict[str, str]): Where to note what was changed.
    """
    tested = [
        step
        for step in transforms_of(cfg, ('val_dataloader', 'test_pipeline'))
        if step.get('type') == 'Resize'
    ]
    for step in transforms_of(cfg, ('train_dataloader', 'train_pipeline')):
        if step.get('type') in ('RandomResize', 'RandomChoiceResize'):
            step.clear()
            # Without one, images are tested as they are.
            step.update(
                copy.deepcopy(tested[0])
                if tested
                else dict(type='Resize', scale_factor=1.0, keep_ratio=True)
            )
            changes['train_dataloader.dataset.pipeline'] = (
                "images have the size of the test's"
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
    for step in transforms_of(cfg):
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
    test_cfg = cfg.model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        stride = [
            max(round(step * new / before), 1)
            for step, new, before in zip(
                test_cfg.stride, size, test_cfg.crop_size
            )
        ]
        test_cfg.crop_size, test_cfg.stride = size, tuple(stride)
    changes['crop_size'] = f'was {old}'


def transforms_of(
    cfg: Config, names: Sequence[str] = (*LOADERS, *_PIPELINES)
) -> Iterator[ConfigDict]:
    """Find all steps of pipelines, nested ones too.

    Args:
        cfg (Config): A training run's.
        names (Sequence[str]): Where to look. Defaults to all loaders and
            pipelines.

    Yields:
        ConfigDict: A step, which may be changed.
    """

    def visit(value: Any) -> Iterator[ConfigDict]:
        if isinstance(value, Mapping):
            yield value
            value = [
                value.get(key)
                for key in (
                    *('transforms', 'transform', 'pipeline'),
                    *('dataset', 'datasets'),
                )
            ]
        if isinstance(value, (list, tuple)):
            for item in value:
                yield from visit(item)

    for name in names:
        yield from visit(cfg.get(name))
