"""`ApplyConfidence` and `UniteCoarseLabels` on sound and unsound files."""

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image

LABEL = np.array([[0, 1, 2], [14, 4, 255]], np.uint8)
KEYS = dict(ApplyConfidence='prob_map_path')
KEYS['UniteCoarseLabels'] = 'coarse_map_path'
each = pytest.mark.parametrize('name', [*KEYS])


def build(name, **kwargs):
    return TRANSFORMS.build(dict(type=name, **kwargs))


@pytest.fixture
def sample(tmp_path):
    """Return a function for a loaded sample with one more file."""

    def make(name, pixels, **info):
        path = tmp_path / 'other.png'
        image = pixels
        if isinstance(pixels, np.ndarray):
            image = Image.fromarray(pixels)
        image.save(path)
        return {
            'seg_map_path': 'a/label.png',
            'gt_seg_map': LABEL.copy(),
            KEYS[name]: str(path),
            **info,
        }

    return make


@each
def test_samples_without_the_file(name):
    plain = dict(seg_map_path='a/label.png', gt_seg_map=LABEL)
    assert build(name)(dict(plain))['gt_seg_map'] is LABEL
    # As of images to predict.
    assert build(name, required=True)({}) == {}
    with pytest.raises(
        ValueError, match=rf'{name}.*a/label.png.*{KEYS[name]}'
    ):
        build(name, required=True)(dict(plain))


@each
def test_the_loaded_label_is_not_changed_in_place(name, sample):
    results = sample(name, np.zeros((2, 3), np.uint8))
    label = results['gt_seg_map']
    build(name)(results)
    assert np.array_equal(label, LABEL)


@each
def test_other_size(name, sample):
    results = sample(name, np.zeros((3, 2), np.uint8))
    with pytest.raises(ValueError, match=r'other.png: 3x2.*label.png is 2x3'):
        build(name)(results)


@each
@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_several_channels(name, mode, sample):
    results = sample(name, Image.new(mode, (3, 2)))
    with pytest.raises(ValueError, match=rf'other.png.*{len(mode)} channels'):
        build(name)(results)


@each
def test_no_image(name, sample):
    results = sample(name, np.zeros((2, 3), np.uint8))
    with open(results[KEYS[name]], 'wb') as file:
        file.write(b'not a PNG')
    with pytest.raises(ValueError, match=r'other.png: not a readable'):
        build(name)(results)


@each
@pytest.mark.parametrize(
    ('info', 'reason'),
    [({'gt_seg_map': None}, 'not loaded yet'), ({'flip': True}, 'flipped')],
)
def test_wrong_order(name, info, reason, sample):
    results = sample(name, np.zeros((2, 3), np.uint8), **info)
    with pytest.raises(ValueError, match=rf'{reason}.*after LoadSegLabels'):
        build(name)(results)


def test_confidence_of_16_bits(sample):
    results = sample('ApplyConfidence', np.full((2, 3), 40000, np.uint16))
    with pytest.raises(ValueError, match=r'other.png.*uint16.*a/label.png'):
        build('ApplyConfidence')(results)


@pytest.mark.parametrize('threshold', [-0.1, 1.1, float('nan'), True, '0.5'])
def test_no_threshold(threshold):
    with pytest.raises((ValueError, TypeError), match=r"threshold|'<='"):
        build('ApplyConfidence', threshold=threshold)


@pytest.mark.parametrize('classes', [(), (14, 14), (254,), (-1,)])
def test_no_classes(classes):
    with pytest.raises(ValueError, match='different class numbers'):
        build('UniteCoarseLabels', classes=classes)


def test_union_also_of_absent_classes(sample):
    coarse = np.array([[3, 14, 0], [0, 0, 0]], np.uint8)
    results = sample('UniteCoarseLabels', coarse)
    absent = build('UniteCoarseLabels', classes=(3,))
    assert np.array_equal(absent(dict(results))['gt_seg_map'], LABEL)
    always = build('UniteCoarseLabels', classes=(14, 3), only_if_present=False)
    found = always(dict(results))['gt_seg_map']
    assert found.tolist() == [[3, 14, 2], [14, 4, 255]]


def test_a_map_of_its_own(sample):
    # Coarse label: zero is ignored, the others are one more. The label: not.
    coarse = np.array([[15, 0, 255], [1, 2, 15]], np.uint8)
    results = sample(
        'UniteCoarseLabels',
        coarse,
        label_map={7: 0},
        reduce_zero_label=False,
        coarse_label_map=None,
        coarse_reduce_zero_label=True,
    )
    unite = build('UniteCoarseLabels', classes=(14,))
    found = unite(results)['gt_seg_map']
    assert found.tolist() == [[14, 1, 2], [14, 4, 14]]


def test_coarse_values_that_are_no_class(sample):
    coarse = np.full((2, 3), 99, np.uint8)
    results = sample('UniteCoarseLabels', coarse, label_map={7: 0, 27: 14})
    with pytest.raises(ValueError, match=r'other.png.*99 \(6 px\).*7, 27'):
        build('UniteCoarseLabels')(results)


def test_before_resizing(sample):
    results = sample('ApplyConfidence', np.full((2, 3), 200, np.uint8))
    resize = TRANSFORMS.build(dict(type='Resize', scale_factor=2.0))
    results['img'] = np.zeros((2, 3, 3), np.uint8)
    results['seg_fields'] = ['gt_seg_map']
    good = resize(build('ApplyConfidence')(dict(results)))
    assert good['gt_seg_map'].shape == (4, 6)
    with pytest.raises(ValueError, match='before any transform that resizes'):
        build('ApplyConfidence')(resize(dict(results)))


def test_repr():
    assert repr(build('ApplyConfidence', threshold=0.9)) == (
        'ApplyConfidence(threshold=0.9, required=False)'
    )
    assert 'classes=(14, 15, 16)' in repr(build('UniteCoarseLabels'))
