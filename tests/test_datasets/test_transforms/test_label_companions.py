"""`ApplyConfidence` and `UniteCoarseLabels` on sound and unsound files."""

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image

LABEL = np.array([[0, 1, 2], [14, 4, 255]], np.uint8)
ZEROS = np.zeros((2, 3), np.uint8)
KEYS = dict(
    ApplyConfidence='prob_map_path', UniteCoarseLabels='coarse_map_path'
)
each = pytest.mark.parametrize('name', [*KEYS])


def build(name, **kwargs):
    return TRANSFORMS.build(dict(type=name, **kwargs))


@pytest.fixture
def sample(tmp_path):
    """Return a function for a loaded sample with one more file."""

    def make(name, pixels, **info):
        path = tmp_path / 'other.png'
        if isinstance(pixels, bytes):
            path.write_bytes(pixels)
        else:
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
@pytest.mark.fault(
    'a sample without its confidence or coarse label',
    'left alone, or refused where it is required',
)
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
@pytest.mark.parametrize(
    ('pixels', 'info', 'match'),
    [
        (ZEROS.T, {}, r'other.png: 3x2.*label.png is 2x3.*transform that re'),
        (Image.new('RGB', (3, 2)), {}, 'other.png.*3 channels'),
        (b'not a PNG', {}, 'other.png: not a readable'),
        (np.full((2, 3), 40000, np.uint16), {}, r'other.png: a uint16 '),
        (ZEROS, {'gt_seg_map': None}, 'not loaded yet.*after LoadSegLabels'),
        (ZEROS, {'flip': True}, 'flipped.*after LoadSegLabels'),
    ],
)
@pytest.mark.fault(
    'a confidence or coarse label of another size, kind, or damaged',
    'refused, with its path',
)
@pytest.mark.fault(
    'an image is flipped before its confidence is loaded',
    'refused, with the order that is expected',
)
def test_files_that_do_not_fit(name, pixels, info, match, sample):
    with pytest.raises(ValueError, match=match):
        build(name)(sample(name, pixels, **info))


def test_union_also_of_absent_classes(sample):
    for classes in ((), (14, 14), (254,), (-1,)):
        with pytest.raises(ValueError, match='different class numbers'):
            build('UniteCoarseLabels', classes=classes)
    coarse = np.array([[3, 14, 0], [0, 0, 0]], np.uint8)
    results = sample('UniteCoarseLabels', coarse)
    loaded = results['gt_seg_map']
    absent = build('UniteCoarseLabels', classes=(3,))
    assert np.array_equal(absent(dict(results))['gt_seg_map'], LABEL)
    always = build('UniteCoarseLabels', classes=(14, 3), only_if_present=False)
    found = always(dict(results))['gt_seg_map']
    assert found.tolist() == [[3, 14, 2], [14, 4, 255]]
    unsure = sample('ApplyConfidence', ZEROS)
    kept = build('ApplyConfidence')(dict(unsure))['gt_seg_map']
    assert (kept == 255).all()
    for label in (loaded, unsure['gt_seg_map']):
        assert np.array_equal(label, LABEL)  # not changed in place
    assert 'threshold=0.9' in repr(build('ApplyConfidence', threshold=0.9))


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
    found = build('UniteCoarseLabels', classes=(14,))(results)['gt_seg_map']
    assert found.tolist() == [[14, 1, 2], [14, 4, 14]]
    # Without one, that of the label.
    results = sample('UniteCoarseLabels', ZEROS + 99, label_map={7: 0, 27: 14})
    with pytest.raises(ValueError, match=r'other.png.*99 \(6 px\).*7, 27'):
        build('UniteCoarseLabels')(results)
