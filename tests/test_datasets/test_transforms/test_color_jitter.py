"""`HMSAColorJitter` beside Pillow's operations."""

import random

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageEnhance

NAMES = ('brightness', 'contrast', 'saturation', 'hue')


@pytest.fixture
def img():
    """A smooth image in BGR order, as mmcv loads it."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((96, 64)))


def jitter(img, **amounts):
    amounts = {**dict.fromkeys(NAMES, 0), **amounts}
    transform = TRANSFORMS.build(dict(type='HMSAColorJitter', **amounts))
    return transform(dict(img=img.copy()))['img']


def fixed(monkeypatch, value):
    monkeypatch.setattr(random, 'uniform', lambda low, high: value)


def pillow(img):
    return Image.fromarray(img[..., ::-1])


def distance(found, image):
    expected = np.asarray(image)[..., ::-1]
    return np.abs(found.astype(int) - expected.astype(int))


@pytest.mark.parametrize('factor', [0.75, 1.0])
@pytest.mark.parametrize(
    ('name', 'enhance', 'tolerance'),
    [
        ('brightness', ImageEnhance.Brightness, 0),
        ('contrast', ImageEnhance.Contrast, 0),
        ('saturation', ImageEnhance.Color, 1),
    ],
)
def test_equals_pillow(img, monkeypatch, name, enhance, tolerance, factor):
    fixed(monkeypatch, factor)
    found = jitter(img, **{name: 0.25})
    expected = enhance(pillow(img)).enhance(factor)
    assert distance(found, expected).max() <= tolerance
    assert np.array_equal(found, img) == (factor == 1)


@pytest.mark.parametrize('shift', [-0.25, 0.1])
def test_hue_as_pillow(img, monkeypatch, shift):
    fixed(monkeypatch, shift)
    found = jitter(img, hue=0.25)
    hue, saturation, value = pillow(img).convert('HSV').split()
    # The shift of the authors' adjust_hue, in the 255 steps of Pillow.
    turned = (np.asarray(hue).astype(int) + int(shift * 255)) % 256
    bands = (Image.fromarray(turned.astype(np.uint8)), saturation, value)
    expected = Image.merge('HSV', bands).convert('RGB')
    difference = distance(found, expected)
    # Both round the hue to a step, each its own way; a step is 6 levels.
    assert difference.max() <= 14
    assert difference.mean() < 1.5
    assert distance(found, pillow(img)).mean() > 10


def test_all_steps_every_time_in_random_order():
    transform = TRANSFORMS.build(dict(type='HMSAColorJitter'))
    draws = [transform._draw() for _ in range(400)]
    assert all(sorted(name for name, _ in d) == sorted(NAMES) for d in draws)
    assert len({tuple(name for name, _ in draw) for draw in draws}) == 24
    values = {n: [dict(d)[n] for d in draws] for n in NAMES}
    for name in NAMES:
        low, high = (-0.25, 0.25) if name == 'hue' else (0.75, 1.25)
        assert low <= min(values[name]) < low + 0.02
        assert high - 0.02 < max(values[name]) <= high
    # A factor is not negative.
    wide = TRANSFORMS.build(dict(type='HMSAColorJitter', brightness=3.0))
    assert min(dict(wide._draw())['brightness'] for _ in range(200)) >= 0


def test_is_a_function_of_the_seed(img):
    outputs = []
    for seed in (1, 1, 2):
        random.seed(seed)
        transform = TRANSFORMS.build(dict(type='HMSAColorJitter'))
        outputs.append(transform(dict(img=img))['img'])
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    assert np.array_equal(jitter(img), img)
    assert 'hue=0.25' in repr(transform)


def test_what_is_refused(img):
    with pytest.raises(ValueError, match=r'contrast=-0.1; expected a number'):
        jitter(img, contrast=-0.1)
    with pytest.raises(ValueError, match=r'hue=0.6; .* from 0 to 0.5'):
        jitter(img, hue=0.6)
    for other in (img[..., 0], np.zeros((4, 4, 4), np.uint8), img / 255):
        with pytest.raises(ValueError, match='uint8 with three channels'):
            jitter(other, hue=0.25)
