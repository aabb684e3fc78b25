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


@pytest.mark.parametrize('factor', [0.75, 0.9, 1.0, 1.25])
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


def test_brightness_clips():
    img = np.full((2, 2, 3), 250, np.uint8)
    found = {jitter(img, brightness=0.25)[0, 0, 0] for _ in range(50)}
    assert 255 in found
    assert min(found) >= 187  # 0.75 * 250


@pytest.mark.parametrize('shift', [-0.25, -0.1, 0.1, 0.25])
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


def test_hue_turns_red_to_green_and_blue(monkeypatch):
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 2] = 255
    for shift, channel in ((1 / 3, 1), (-1 / 3, 0)):
        fixed(monkeypatch, shift)
        turned = jitter(red, hue=0.5)[0, 0]
        assert turned[channel] == 255
        assert sorted(turned)[:2] < [8, 8]


def test_all_steps_every_time_in_random_order():
    transform = TRANSFORMS.build(dict(type='HMSAColorJitter'))
    draws = [transform._draw() for _ in range(400)]
    assert all(sorted(name for name, _ in d) == sorted(NAMES) for d in draws)
    orders = [tuple(name for name, _ in draw) for draw in draws]
    assert len(set(orders)) == 24
    values = {n: [dict(d)[n] for d in draws] for n in NAMES}
    for name in NAMES:
        low, high = (-0.25, 0.25) if name == 'hue' else (0.75, 1.25)
        assert low <= min(values[name]) < low + 0.02
        assert high - 0.02 < max(values[name]) <= high


def test_order_matters(img, monkeypatch):
    fixed(monkeypatch, 1.5)
    amounts = dict(brightness=0.5, contrast=0.5)
    found = set()
    for order in ([0, 1], [1, 0]):
        monkeypatch.setattr(
            random,
            'sample',
            lambda steps, count, order=order: [steps[i] for i in order],
        )
        found.add(jitter(img, **amounts).tobytes())
    assert len(found) == 2


def test_factor_is_not_negative():
    transform = TRANSFORMS.build(dict(type='HMSAColorJitter', brightness=3.0))
    drawn = [dict(transform._draw())['brightness'] for _ in range(200)]
    assert 0 <= min(drawn) < 0.2
    assert max(drawn) > 3.5


def test_is_a_function_of_the_seed(img):
    def run(seed):
        random.seed(seed)
        return TRANSFORMS.build(dict(type='HMSAColorJitter'))(dict(img=img))

    assert np.array_equal(run(1)['img'], run(1)['img'])
    assert not np.array_equal(run(1)['img'], run(2)['img'])


def test_amount_zero_leaves_the_image(img):
    assert np.array_equal(jitter(img), img)


@pytest.mark.parametrize(
    ('amounts', 'message'),
    [
        (dict(contrast=-0.1), 'contrast=-0.1; expected a number from 0 to'),
        (dict(hue=0.6), 'hue=0.6; expected a number from 0 to 0.5'),
    ],
)
def test_bad_amounts(img, amounts, message):
    with pytest.raises(ValueError, match=message):
        jitter(img, **amounts)


@pytest.mark.parametrize(
    ('shape', 'dtype'),
    [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32)],
)
def test_other_images_are_refused(shape, dtype):
    with pytest.raises(ValueError, match='expected uint8 with three channels'):
        jitter(np.zeros(shape, dtype), hue=0.25)
