"""Colour jitter as torchvision's and the authors' on Pillow images."""

from __future__ import annotations

import random

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class HMSAColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue, in random order.

    Each change is applied to every image (NVIDIA/semantic-segmentation,
    transforms/transforms.py: ``ColorJitter``), where mmseg's
    ``PhotoMetricDistortion`` applies each with probability 0.5, in one of
    two orders, and shifts the brightness instead of scaling it. Equal to
    Pillow's operations but for rounding, that of the hue included, which
    both keep in 256 steps.

    Args:
        brightness (float): The factor is drawn from
            ``[max(0, 1 - brightness), 1 + brightness]``. 0 leaves the step
            out. Defaults to 0.25 (train.py: ``--color_aug``), as the others.
        contrast (float): The same, for the distance from the mean grey.
        saturation (float): The same, for the distance from the own grey.
        hue (float): The shift is drawn from ``[-hue, hue]``, in turns of the
            colour circle, at most 0.5.

    Raises:
        ValueError: If an amount is negative or ``hue`` above 0.5; when
            called, if the image is not of uint8 with three channels.
    """

    def __init__(
        self,
        brightness: float = 0.25,
        contrast: float = 0.25,
        saturation: float = 0.25,
        hue: float = 0.25,
    ) -> None:
        self.amounts = dict(
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
        )
        for name, amount in self.amounts.items():
            limit = 0.5 if name == 'hue' else np.inf
            if not 0 <= amount <= limit:
                raise ValueError(
                    f'HMSAColorJitter: {name}={amount!r}; expected a number '
                    f'from 0 to {limit}'
                )

    @cache_randomness
    def _draw(self) -> list[tuple[str, float]]:
        steps = []
        for name, amount in self.amounts.items():
            if amount > 0:
                low, high = max(0, 1 - amount), 1 + amount
                if name == 'hue':
                    low, high = -amount, amount
                steps.append((name, random.uniform(low, high)))
        return random.sample(steps, len(steps))

    def transform(self, results: dict) -> dict:
        """Change ``img``, (H, W, 3) uint8 in BGR order."""
        img = results['img']
        if img.dtype != np.uint8 or img.shape[2:] != (3,):
            raise ValueError(
                f'HMSAColorJitter: {results.get("img_path")} is of '
                f'{img.dtype} with shape {img.shape}; expected uint8 with '
                'three channels'
            )
        for name, value in self._draw():
            img = _ADJUST[name](img, value)
        results['img'] = img
        return results

    def __repr__(self) -> str:
        """Return the arguments."""
        amounts = ', '.join(f'{k}={v}' for k, v in self.amounts.items())
        return f'{self.__class__.__name__}({amounts})'


def _blend_table(grey: int, factor: float) -> np.ndarray:
    values = grey + np.float32(factor) * (
        np.arange(256, dtype=np.float32) - grey
    )
    # Pillow cuts fractions off.
    return values.clip(0, 255).astype(np.uint8)


def adjust_brightness(img: np.ndarray, factor: float) -> np.ndarray:
    """Scale all values; 0 gives black."""
    return cv2.LUT(img, _blend_table(0, factor))


def adjust_contrast(img: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of all values from the mean grey level."""
    mean = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY).mean()
    return cv2.LUT(img, _blend_table(int(mean + 0.5), factor))


def adjust_saturation(img: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of each pixel from its grey level."""
    grey = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)
    grey = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(img, factor, grey, 1 - factor, 0)


def adjust_hue(img: np.ndarray, shift: float) -> np.ndarray:
    """Turn the colour circle by a fraction of a turn."""
    hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV_FULL)
    # The hue fills the whole range of uint8, which wraps around as it does.
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


_ADJUST = dict(
    brightness=adjust_brightness,
    contrast=adjust_contrast,
    saturation=adjust_saturation,
    hue=adjust_hue,
)
