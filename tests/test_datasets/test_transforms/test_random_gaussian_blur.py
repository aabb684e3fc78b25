"""`RandomGaussianBlur`: the filter and its widths."""

import random

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS


def blur(img, **kwargs):
    transform = TRANSFORMS.build(dict(type='RandomGaussianBlur', **kwargs))
    return transform(dict(img=img.copy()))['img']


def gaussian(img, sigma):
    """The filter by its definition, one axis after the other."""
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    kernel /= kernel.sum()
    out = img.astype(float)
    for axis in (0, 1):
        width = [(0, 0)] * 3
        width[axis] = (radius, radius)
        padded = np.pad(out, width, mode='edge')
        out = sum(
            weight * np.take(padded, i + np.arange(img.shape[axis]), axis)
            for i, weight in enumerate(kernel)
        )
    return out


@pytest.mark.parametrize('sigma', [0.15, 0.8, 1.3])
def test_filter(sigma):
    rng = np.random.default_rng(0)
    img = rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    found = blur(img, sigma_range=(sigma, sigma))
    assert found.dtype == np.uint8
    difference = np.abs(found - gaussian(img, sigma))
    # OpenCV filters uint8 with weights of 8 bits.
    assert difference.max() < 1.5
    assert difference.mean() < 0.4
    assert np.array_equal(found, img) == (sigma == 0.15)


def test_widths_are_the_authors_and_drawn_with_the_seed(monkeypatch):
    img = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    outputs = []
    for seed in (1, 1, 2):
        random.seed(seed)
        outputs.append(blur(img, sigma_range=(0.5, 3)))
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    limits = []
    monkeypatch.setattr(
        random, 'uniform', lambda *args: limits.append(args) or args[0]
    )
    blur(img)
    # 0.15 + U(0, 1) * 1.15
    assert limits == [(0.15, pytest.approx(1.3))]


def test_bad_limits():
    for limits in ((0, 1), (2, 1), (-1, 1)):
        with pytest.raises(ValueError, match='two numbers, 0 < low'):
            blur(np.zeros((4, 4, 3), np.uint8), sigma_range=limits)
