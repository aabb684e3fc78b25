"""Gaussian blur of a random width."""

from __future__ import annotations

import random

import cv2
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS

from .options_repr import OptionsRepr


@TRANSFORMS.register_module()
class RandomGaussianBlur(OptionsRepr, BaseTransform):
    """Blur every image a little, by a random amount.

    The filter is that of NVIDIA/semantic-segmentation,
    transforms/transforms.py: ``RandomGaussianBlur``: cut off at four
    standard deviations, with the border repeated.

    Args:
        sigma_range (tuple[float, float]): Limits of the standard deviation
            in pixels, drawn uniformly. Defaults to (0.15, 1.3), the
            authors'.

    Raises:
        ValueError: If the limits are not 0 < low <= high.
    """

    def __init__(self, sigma_range: tuple[float, float] = (0.15, 1.3)) -> None:
        low, high = sigma_range
        if not 0 < low <= high:
            raise ValueError(
                f'RandomGaussianBlur: sigma_range={sigma_range!r}; expected '
                'two numbers, 0 < low <= high'
            )
        self.sigma_range = (low, high)

    @cache_randomness
    def _draw(self) -> float:
        return random.uniform(*self.sigma_range)

    def transform(self, results: dict) -> dict:
        """Blur ``img``, (H, W, channels)."""
        sigma = self._draw()
        width = 2 * int(4 * sigma + 0.5) + 1
        results['img'] = cv2.GaussianBlur(
            results['img'],
            (width, width),
            sigma,
            borderType=cv2.BORDER_REPLICATE,
        )
        return results
