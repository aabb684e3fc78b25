"""Sizes of images and crops in the pipelines of a converted config."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from mmcv import rescale_size
from PIL import Image

from hmsa_mmseg.datasets.folder import IMG_SUFFIXES

from .conversion import Conversion
from .nested import transforms_of

_CROPS = ('RandomCrop', 'CentroidRandomCrop')
_RANDOM = ('RandomResize', 'RandomChoiceResize')
# Of the zoo's recipes for Cityscapes and ADE20K.
_RATIO_RANGE = (0.5, 2.0)
#: By so much images may be enlarged without a note.
_MUCH = 2
_PIPELINE = 'train_dataloader.dataset.pipeline'


def set_image_scale(new: Conversion, scale: Sequence[int]) -> None:
    """Fit images into another width and height than the zoo's, in place."""
    scale = tuple(scale)
    for step in transforms_of(new.cfg, ('Resize', *_RANDOM)):
        if step.type == 'RandomChoiceResize':
            step.clear()
            step.update(
                type='RandomResize',
                ratio_range=_RATIO_RANGE,
                keep_ratio=True,
            )
        step.scale = scale
    new.changes[_PIPELINE] = f'images are resized to {scale[0]} x {scale[1]}'


def resize_as_tested(new: Conversion) -> None:
    """Train on images of the size of the validation, in place."""
    tested = next(
        transforms_of(
            new.cfg, ('Resize',), ('val_dataloader', 'test_dataloader')
        ),
        # Without one, images are tested as they are.
        dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    )
    for step in transforms_of(new.cfg, _RANDOM, ('train_dataloader',)):
        step.clear()
        step.update(copy.deepcopy(tested))
        new.changes[_PIPELINE] = "images have the size of the test's"


def set_crop_size(new: Conversion, size: Sequence[int]) -> None:
    """Train on crops of another size than the zoo's, in place.

    Windows at test time, if there are any, change with them.
    """
    size, model = tuple(size), new.cfg.model
    crops = list(transforms_of(new.cfg, _CROPS))
    if not crops:
        raise ValueError(
            'the training pipeline has none of '
            f'{", ".join(_CROPS)}; set the size in the written config'
        )
    new.changes['crop_size'] = f'{size}, was {tuple(crops[-1].crop_size)}'
    for step in crops:
        step.crop_size = size
    if model.get('data_preprocessor') is not None:
        model.data_preprocessor.size = size
    test_cfg = model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        sizes = zip(test_cfg.stride, size, test_cfg.crop_size)
        test_cfg.stride = tuple(
            max(round(step * own / old), 1) for step, own, old in sizes
        )
        test_cfg.crop_size = size


def note_small_images(new: Conversion, folder: str) -> None:
    """Note if images of a folder hardly fit the sizes of a config."""
    images = (
        path
        for path in sorted(Path(folder, 'images').rglob('*'))
        if path.suffix.lower() in IMG_SUFFIXES
    )
    path = next(images, None)
    steps = transforms_of(
        new.cfg, ('Resize', *_RANDOM[:1]), ('train_dataloader',)
    )
    scale = next(steps, {}).get('scale')
    crops = [*transforms_of(new.cfg, _CROPS, ('train_dataloader',))]
    if path is None or scale is None or not crops:
        return
    try:
        with Image.open(path) as image:
            size = image.size
    except OSError:  # The training says so.
        return
    (width, height), enlarged = rescale_size(
        size, tuple(scale), return_scale=True
    )
    what = f'{path.name} of {size[0]} x {size[1]} (width x height)'
    if enlarged > _MUCH:
        new.changes['small images'] = (
            f'{what} is enlarged {enlarged:.1f} times, to {width} x {height}; '
            '--image-scale sets another size'
        )
    elif crops[-1].crop_size[0] > height or crops[-1].crop_size[1] > width:
        new.changes['small images'] = (
            f'{what} is resized to {width} x {height}, the crop is '
            f'{crops[-1].crop_size[1]} x {crops[-1].crop_size[0]}, the rest '
            'of it padding; --crop-size sets another size'
        )
