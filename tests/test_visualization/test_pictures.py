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
from hmsa_mmseg.visualization.pictures import as_rgb

from .conftest import CLASSES, PALETTE, SIZE

STOCK = ['input', 'overlay', 'prediction', 'ground_truth', 'error']
COLOURS = np.array([*PALETTE, [0, 0, 0]], np.uint8)


@pytest.fixture
def draw(image):
    def draw(sample):
        return draw_pictures(image, sample, CLASSES, PALETTE)

    return draw


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [
        ([[[300.0, -2.0, 7.6]]], [[[8, 0, 255]]]),
        ([[[1, 2, 3, 99]]], [[[3, 2, 1]]]),
        ([[0, 1000, 2000]], [[[0] * 3, [128] * 3, [255] * 3]]),
        ([[0.0, 0.5, 1.0]], [[[0] * 3, [128] * 3, [255] * 3]]),
        ([[0.0, np.nan]], [[[0] * 3] * 2]),
    ],
)
def test_pixels_of_any_type_are_shown(pixels, expected):
    assert as_rgb(np.array(pixels)).tolist() == expected


def data(sample, field):
    return sample.get(field).data.numpy()


def test_what_a_result_lacks_is_not_drawn(draw, make_sample):
    assert list(draw(make_sample(scales=()))) == STOCK
    assert list(draw(make_sample(scales=(), labels=False))) == STOCK[:3]
    one = draw(make_sample(scales=(1.0,)))
    assert 'weight_1' in one
    assert not any(key.startswith('attn') for key in one)


def test_classes_and_maps(draw, make_sample, image):
    sample = make_sample()
    pictures = draw(sample)
    label = data(sample, 'gt_sem_seg')[0]
    prediction = data(sample, 'pred_sem_seg')[0]
    error = image / 2
    error[prediction != label] = WRONG
    error[label == 255] = IGNORED
    single = data(sample, 'scale_sem_seg')
    attn, weights = data(sample, 'scale_attn'), data(sample, 'scale_weights')
    expected = {
        'input': image,
        'prediction': COLOURS[prediction],
        'error': error,
        'ground_truth': COLOURS[np.where(label == 255, 3, label)],
        'confidence': heat(data(sample, 'confidence')[0]),
        'winning_scale': scale_palette(3)[weights.argmax(axis=0)],
    }
    for s, name in enumerate(('0.5', '1', '2')):
        expected[f'scale_{name}'] = COLOURS[single[s]]
        expected[f'weight_{name}'] = heat(weights[s])
    for s, name in enumerate(('0.5', '1')):
        expected[f'attn_{name}'] = heat(attn[s])
    assert pictures.keys() == {*expected, 'overlay'}
    for key, pixels in expected.items():
        # Legends are below.
        difference = np.abs(pictures[key][: SIZE[0]] - pixels.astype(float))
        assert difference.max() <= 0.5 * (key == 'error'), key
    taller = {key for key, one in pictures.items() if len(one) > SIZE[0]}
    prefixes = ('error', 'confidence', 'attn', 'weight', 'winning')
    assert taller == {key for key in pictures if key.startswith(prefixes)}
    legend = pictures['winning_scale'][SIZE[0] :]
    for colour in scale_palette(3):
        assert (legend == colour).all(axis=-1).any()
    # mmseg gives floats for one channel, classes_only int16.
    for dtype in (torch.float32, torch.int16):
        found = draw(make_sample(dtype=dtype))
        for key, picture in pictures.items():
            np.testing.assert_array_equal(found[key], picture)


def test_several_winning_scales_are_black(draw, make_sample):
    sample = make_sample()
    few = draw(sample)['winning_scale']
    sample.scale_weights.data[:, 3:5] = 1 / 3
    found = draw(sample)['winning_scale']
    black = (found[: SIZE[0]] == 0).all(axis=-1)
    np.testing.assert_array_equal(np.nonzero(black.all(axis=1))[0], [3, 4])
    assert black.sum() == 2 * SIZE[1]
    # Its legend says so.
    assert len(found) > len(few)


@pytest.mark.fault(
    'a label or prediction that does not fit its image: pictures',
    'an error with the name of the image',
)
def test_faults_name_the_image(draw, make_sample, image):
    with pytest.raises(ValueError, match=r'photo.png: expected .*\(24, 40\)'):
        draw_pictures(image[:-1], make_sample(), CLASSES, PALETTE)
    size, guess, label = make_sample(), make_sample(), make_sample()
    size.gt_sem_seg = PixelData(data=torch.zeros(1, 12, 20))
    guess.pred_sem_seg.data[0, 0, 0] = 7
    label.gt_sem_seg.data[0, 0, 0] = 9
    for sample, message in (
        (size, r'truth of \(12, 20\).* of \(24, 40\).*must come after Resize'),
        (guess, r'prediction with .*\[7\]'),
        (label, r'ground truth .*\[9\].* 0 to 2 or 255'),
    ):
        with pytest.raises(ValueError, match=rf'photo.png: .*{message}'):
            draw(sample)
