"""Labels become what the authors' code makes of them, bit for bit."""

from itertools import permutations

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS
from oracles import labels as authors
from PIL import Image

from hmsa_mmseg.datasets.cityscapes import ID_TO_TRAIN_ID
from hmsa_mmseg.datasets.confidence import check_threshold, encode_confidence

VEHICLES = (27, 28, 31)  # truck, bus, train
# Of void, car, vehicles, and two after them: caravan (void) and bicycle.
IDS = (0, 11, 26, *VEHICLES, 29, 33)
UNITED = (14, 15, 16)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a sample's three files."""

    def save(label, prob, coarse):
        sample = dict(label_map=ID_TO_TRAIN_ID, seg_fields=[])
        for key, pixels in (
            ('seg_map_path', label),
            ('prob_map_path', prob),
            ('coarse_map_path', coarse),
        ):
            sample[key] = str(tmp_path / f'{key}.png')
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(sample[key], compress_level=1)
        return sample

    return save


def build(threshold=0.5, united=UNITED, **region):
    pipeline = [
        dict(type='LoadSegLabels', num_classes=19),
        dict(type='MaskOutRegion', **region),
        dict(type='UniteCoarseLabels', classes=united, required=True),
        dict(type='ApplyConfidence', threshold=threshold, required=True),
    ]
    return Compose([TRANSFORMS.build(step) for step in pipeline])


def run(steps, sample):
    return steps({**sample, 'seg_fields': []})['gt_seg_map']


def theirs(arrays, threshold, drop_mask, united=UNITED):
    label, prob, coarse = arrays
    read = authors.read_images(label, coarse, united, drop_mask)
    return authors.apply_threshold(read, prob, threshold)


def test_whole_images(save):
    rng = np.random.default_rng(0)
    size = (1024, 2048)
    label = rng.integers(0, 34, size, np.uint8)
    coarse = rng.integers(0, 34, size, np.uint8)
    prob = rng.choice(np.array([127, 128, 229, 230], np.uint8), size)
    sample = save(label, prob, coarse)
    read = authors.read_images(label, coarse, UNITED, authors.DROP_MASK)
    for threshold in (0.5, 0.9):
        found = run(build(threshold), sample)
        expected = authors.apply_threshold(read, prob, threshold)
        assert found.dtype == expected.dtype == np.uint8
        assert np.array_equal(found, expected)
    # Values that only just pass, and that only just do not.
    assert {*prob[found != 255].tolist()} == {230}
    # Outside of the region only what comes from coarse labels counts.
    rows, columns = np.nonzero(~np.isin(found, (*UNITED, 255)))
    assert (rows.min(), rows.max()) == (15, 839)
    assert (columns.min(), columns.max()) == (14, 2029)
    assert {14, 15, 16} <= {*found[:15].ravel().tolist()}
    assert {14, 15, 16} <= {*found[840:].ravel().tolist()}


def test_many_small_images(save):
    rng = np.random.default_rng(1)
    drop_mask = np.zeros((6, 12))
    drop_mask[1:5, 2:10] = 1.0
    steps = build(box=(1, 5, 2, 10), ref_size=(6, 12))
    was_united = 0
    for _ in range(100):
        # Few values in each, so that a class is often absent.
        label = rng.choice(rng.choice(IDS, 3), (6, 12))
        coarse = rng.choice(rng.choice(IDS, 3), (6, 12))
        prob = rng.integers(100, 156, (6, 12))
        arrays = label, prob, coarse
        found = run(steps, save(*arrays))
        assert np.array_equal(found, theirs(arrays, 0.5, drop_mask))
        alone = theirs(arrays, 0.5, drop_mask, united=())
        was_united += not np.array_equal(found, alone)
    assert was_united > 20


@pytest.mark.parametrize(
    ('label', 'coarse', 'left', 'expected'),
    [
        # The only bus is a truck in the coarse label, and is united first.
        ([27, 28, 0, 0], [0, 27, 28, 28], 0, [14, 14, 255, 255]),
        # Presence counts within the region, which is cut out before.
        ([28, 0, 0, 0], [0, 28, 28, 28], 1, [255] * 4),
    ],
)
def test_what_is_not_united(save, label, coarse, left, expected):
    label, coarse = np.array([label]), np.array([coarse])
    arrays = label, np.full_like(label, 255), coarse
    drop_mask = np.array([[0.0] * left + [1.0] * (4 - left)])
    for order in permutations(UNITED):
        steps = build(0.5, order, box=(0, 1, left, 4), ref_size=(1, 4))
        assert run(steps, save(*arrays)).tolist() == [expected]
        assert theirs(arrays, 0.5, drop_mask, order).tolist() == [expected]


def test_every_value_at_every_edge(save):
    prob = np.arange(256).reshape(16, 16)
    label = np.full((16, 16), 7)
    arrays = label, prob, np.zeros((16, 16))
    sample = save(*arrays)
    steps = np.arange(0, 255, 17) / 255.0
    thresholds = [0, 1, 0.5, 0.9, *steps, *np.nextafter(steps, 1)]
    sample['gt_seg_map'] = read = theirs(arrays, 0, None)

    def ours(threshold):
        step = dict(type='ApplyConfidence', threshold=threshold)
        return TRANSFORMS.build(step)(dict(sample))['gt_seg_map']

    for threshold in map(float, thresholds):
        expected = authors.apply_threshold(read, prob, threshold)
        assert np.array_equal(ours(threshold), expected), threshold
    assert (ours(0) == 0).all()
    assert (ours(1) == 0).sum() == 1


def test_confidence_as_the_authors_store_it():
    steps = np.arange(256, dtype=np.float32) / np.float32(255)
    # Each step, and the numbers next to it.
    edges = np.stack([steps, np.nextafter(steps, 0), np.nextafter(steps, 1)])
    edges = edges.clip(0, 1).astype(np.float32)
    found = encode_confidence(edges)
    assert found.dtype == np.uint8
    # utils/misc.py: ImageDumper.
    assert np.array_equal(found, (edges * 255).astype(np.uint8))


def test_what_is_no_confidence():
    for value in (np.nan, -0.01, 1.01, np.inf):
        with pytest.raises(ValueError, match='expected numbers from 0 to 1'):
            encode_confidence(np.float32([[0.5, value]]))
    for value in (-0.1, 1.1, True, np.nan):
        with pytest.raises(ValueError, match='threshold='):
            check_threshold(value)
