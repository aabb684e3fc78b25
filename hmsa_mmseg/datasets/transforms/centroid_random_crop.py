"""A random crop, around the centroid of a class if there is one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS

from .options_repr import OptionsRepr


@TRANSFORMS.register_module()
class CentroidRandomCrop(OptionsRepr, BaseTransform):
    """Crop at random; if the sampler gave a centroid, so that it is inside.

    The authors' ``RandomCrop`` (``transforms/joint_transforms.py``): in each
    direction the crop starts at a whole number drawn from ``centroid - size``
    to ``centroid``, both included, then moved into the image. Without a
    centroid it starts anywhere. An image smaller than the crop in one
    direction is padded on both of its sides, by half of what is missing
    plus 1. Unlike theirs, the centroid moves with the padding.

    The centroid is given in pixels of the image as loaded; resizing and
    flipping before the crop are followed, in any order. It should be the
    first crop of the pipeline.

    Required Keys:

    - img
    - class_centroid (optional): (x, y)
    - ori_shape or scale_factor (with class_centroid)
    - flip, flip_direction (optional)

    Modified Keys:

    - img
    - img_shape
    - all of seg_fields

    Args:
        crop_size (int | tuple[int, int]): (h, w).
        pad (str): ``center`` pads images smaller than the crop, so that the
            result always has ``crop_size``; ``none`` leaves them smaller, to
            be padded at the bottom and right by the data preprocessor.
        img_pad_val (float | Sequence[float]): Value of padded pixels, before
            normalisation; a sequence has one for each channel. Defaults
            to 0, black, as the authors'.
        seg_pad_val (int): Label of padded pixels. Defaults to 255, ignored.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        pad: str = 'center',
        img_pad_val: float | Sequence[float] = 0,
        seg_pad_val: int = 255,
    ) -> None:
        if isinstance(crop_size, int):
            crop_size = (crop_size, crop_size)
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(
                f'crop_size={crop_size}; expected (height, width), positive'
            )
        if pad not in ('center', 'none'):
            raise ValueError(f"pad={pad!r}; expected 'center' or 'none'")
        self.crop_size = tuple(crop_size)
        self.pad = pad
        self.img_pad_val = img_pad_val
        self.seg_pad_val = seg_pad_val

    def transform(self, results: dict) -> dict:
        """Crop the image and the labels."""
        size = results['img'].shape[:2]
        centroid = _current_centroid(results)
        (top, left), shape = self._window(size, centroid)
        results['img'] = _cut(
            results['img'], top, left, shape, self.img_pad_val
        )
        for key in results.get('seg_fields', []):
            if results[key].shape[:2] != size:
                raise ValueError(
                    f'{results.get("img_path")}: the image is {size[0]}x'
                    f'{size[1]} (height x width) at CentroidRandomCrop, its '
                    f'{key} {results[key].shape[0]}x{results[key].shape[1]}; '
                    'expected the label to be loaded before the image is '
                    'resized'
                )
            results[key] = _cut(
                results[key], top, left, shape, self.seg_pad_val
            )
        results['img_shape'] = results['img'].shape[:2]
        return results

    @cache_randomness
    def _window(
        self, size: tuple[int, int], centroid: tuple[int, int] | None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Draw where to crop an image of (h, w) around (y, x).

        Returns (top, left), negative where the crop begins in the padding,
        and its (h, w).
        """
        offsets, shape = [], []
        for axis in (0, 1):
            length, crop = size[axis], self.crop_size[axis]
            border = 0
            if length < crop:
                if self.pad == 'center':
                    border = (crop - length) // 2 + 1
                else:
                    crop = length
            last = length + 2 * border - crop
            if centroid is None:
                offset = random.randint(0, last)
            else:
                center = centroid[axis] + border
                offset = random.randint(center - crop, center)
                offset = min(max(offset, 0), last)
            offsets.append(offset - border)
            shape.append(crop)
        return tuple(offsets), tuple(shape)


def _current_centroid(results: dict) -> tuple[int, int] | None:
    """Return the centroid as (y, x) in the image as it is now."""
    if results.get('class_centroid') is None:
        return None
    x, y = results['class_centroid']
    height, width = results['img'].shape[:2]
    if 'ori_shape' in results:
        # Not scale_factor: that is of the last resize only.
        scale_x = width / results['ori_shape'][1]
        scale_y = height / results['ori_shape'][0]
    else:
        scale_x, scale_y = results.get('scale_factor', (1.0, 1.0))
    x, y = int(x * scale_x), int(y * scale_y)
    if results.get('flip'):
        if results['flip_direction'] in ('horizontal', 'diagonal'):
            x = width - 1 - x
        if results['flip_direction'] in ('vertical', 'diagonal'):
            y = height - 1 - y
    return y, x


def _cut(
    pixels: np.ndarray,
    top: int,
    left: int,
    shape: tuple[int, int],
    pad_val: float | Sequence[float],
) -> np.ndarray:
    """Cut a window that may reach beyond the pixels."""
    height, width = pixels.shape[:2]
    bottom, right = top + shape[0], left + shape[1]
    inside = pixels[
        max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)
    ]
    if inside.shape[:2] == shape:
        return inside
    cut = np.empty((*shape, *pixels.shape[2:]), pixels.dtype)
    cut[:] = pad_val
    y, x = max(-top, 0), max(-left, 0)
    cut[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return cut
