"""Pictures, pixel by pixel."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from hmsa_mmseg.visualization import draw_pictures
from hmsa_mmseg.visualization.colours import (
    IGNORED,
    WRONG,
    heat,
    scale_palette,
)

from .conftest import CLASSES, PALETTE, SIZE

STOCK = ['input', 'overlay', 'prediction', 'ground_truth', 'error']
KEYS = [
    *STOCK,
    'confidence',
    *('scale_0.5', 'scale_1', 'scale_2', 'attn_0.5', 'attn_1'),
    *('weight_0.5', 'weight_1', 'weight_2', 'winning_scale'),
]
COLOURS = np.array([*PALETTE, [0, 0, 0]], np.uint8)


@pytest.fixture
def draw(image):
    def draw(sample, **kwargs):
        options = dict(legends=False, with_labels=False)
        return draw_pictures(
            image, sample, CLASSES, PALETTE, **{**options, **kwargs}
        )

    return draw


def data(sample, field):
    return sample.get(field).data.numpy()


def test_what_a_result_lacks_is_not_drawn(draw, make_sample):
    stock = make_sample(scales=())
    assert list(draw(stock)) == STOCK
    assert list(draw(make_sample(scales=(), labels=False))) == STOCK[:3]
    one = draw(make_sample(scales=(1.0,)))
    assert 'weight_1' in one
    assert not any(key.startswith('attn') for key in one)


def test_class_pictures(draw, make_sample):
    sample = make_sample()
    pictures = draw(sample)
    label = data(sample, 'gt_sem_seg')[0]
    label = np.where(label == 255, 3, label)
    for key, classes in (
        ('prediction', data(sample, 'pred_sem_seg')[0]),
        ('ground_truth', label),
        ('scale_0.5', data(sample, 'scale_sem_seg')[0]),
        ('scale_2', data(sample, 'scale_sem_seg')[2]),
    ):
        np.testing.assert_array_equal(pictures[key], COLOURS[classes])


def test_overlay_and_input(draw, make_sample, image):
    sample = make_sample()
    pictures = draw(sample, alpha=0.25)
    np.testing.assert_array_equal(pictures['input'], image)
    colours = COLOURS[data(sample, 'pred_sem_seg')[0]]
    expected = 0.75 * image + 0.25 * colours
    found = pictures['overlay'].astype(float)
    assert np.abs(found - expected).max() <= 0.5


def test_errors(draw, make_sample, image):
    sample = make_sample()
    picture = draw(sample)['error']
    prediction = data(sample, 'pred_sem_seg')[0]
    label = data(sample, 'gt_sem_seg')[0]
    kinds = set()
    for y, x in np.ndindex(*SIZE):
        if label[y, x] == 255:
            kind, expected = 'ignored', IGNORED
        elif label[y, x] != prediction[y, x]:
            kind, expected = 'wrong', WRONG
        else:
            kind, expected = 'right', image[y, x] / 2
        kinds.add(kind)
        assert np.abs(picture[y, x] - np.asarray(expected)).max() <= 0.5
    assert kinds == {'ignored', 'wrong', 'right'}


def test_maps_and_the_winning_scale(draw, make_sample):
    sample = make_sample()
    pictures = draw(sample)
    for key, field, index in (
        ('confidence', 'confidence', 0),
        ('attn_0.5', 'scale_attn', 0),
        ('attn_1', 'scale_attn', 1),
        ('weight_0.5', 'scale_weights', 0),
        ('weight_2', 'scale_weights', 2),
    ):
        expected = heat(data(sample, field)[index])
        np.testing.assert_array_equal(pictures[key], expected)
    winner = data(sample, 'scale_weights').argmax(axis=0)
    np.testing.assert_array_equal(
        pictures['winning_scale'], scale_palette(3)[winner]
    )


def test_several_winning_scales_are_black(make_sample, image):
    sample = make_sample()
    few = draw_pictures(image, sample, CLASSES)['winning_scale']
    sample.scale_weights.data[:, 3:5] = 1 / 3
    found = draw_pictures(image, sample, CLASSES)['winning_scale']
    black = (found[: SIZE[0]] == 0).all(axis=-1)
    expected = np.zeros(SIZE, bool)
    expected[3:5] = True
    np.testing.assert_array_equal(black, expected)
    # Its legend says so.
    assert len(found) > len(few)


@pytest.mark.parametrize('size', [SIZE, (9, 11), (64, 512)])
def test_legends_are_below(make_sample, size):
    sample = make_sample(size=size)
    image = np.zeros((*size, 3), np.uint8)
    plain = draw_pictures(image, sample, CLASSES, PALETTE, legends=False)
    pictures = draw_pictures(image, sample, CLASSES, PALETTE)
    taller = {
        key for key, one in pictures.items() if one.shape != plain[key].shape
    }
    prefixes = ('error', 'confidence', 'attn', 'weight', 'winning')
    assert taller == {key for key in pictures if key.startswith(prefixes)}
    for key, picture in pictures.items():
        np.testing.assert_array_equal(picture[: size[0]], plain[key])
    legend = pictures['winning_scale'][size[0] :]
    for colour in scale_palette(3):
        assert (legend == colour).all(axis=-1).any()


def test_binary_and_other_types(draw, make_sample):
    """mmseg gives floats for one channel, classes_only int16."""
    expected = draw(make_sample())
    for dtype in (torch.float32, torch.int16, torch.uint8):
        found = draw(make_sample(dtype=dtype))
        assert found.keys() == expected.keys()
        for key in found:
            np.testing.assert_array_equal(found[key], expected[key])


def test_faults_name_the_image(draw, make_sample, image):
    sample = make_sample()
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 12, 20))
    with pytest.raises(
        ValueError,
        match=r'photo.png: ground truth of \(12, 20\).* of \(24, 40\)'
        r'.*LoadAnnotations must come after Resize',
    ):
        draw(sample)
    with pytest.raises(ValueError, match=r'photo.png: expected .*\(24, 40\)'):
        draw_pictures(image[:-1], make_sample(), CLASSES, PALETTE)
    sample = make_sample()
    sample.pred_sem_seg.data[0, 0, 0] = 7
    with pytest.raises(
        ValueError, match=r'photo.png: prediction with .*\[7\]'
    ):
        draw(sample)
    sample = make_sample()
    sample.gt_sem_seg.data[0, 0, 0] = 9
    with pytest.raises(
        ValueError, match=r'photo.png: ground truth .*\[9\].* 0 to 2 or 255'
    ):
        draw(sample)
