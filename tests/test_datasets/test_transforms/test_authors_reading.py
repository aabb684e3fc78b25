"""Labels become what the authors' code makes of them, bit for bit."""

import importlib.util
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS
from PIL import Image

from hmsa_mmseg.datasets.cityscapes import ID_TO_TRAIN_ID

spec = importlib.util.spec_from_file_location(
    'authors_reading', Path(__file__).with_name('authors_reading.py')
)
authors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(authors)

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


def ours(sample, *args, **kwargs):
    return run(build(*args, **kwargs), sample)


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
        found = ours(sample, threshold)
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


@pytest.mark.parametrize('first', VEHICLES)
@pytest.mark.parametrize('order', [*permutations(UNITED)])
def test_coarse_vehicles_on_vehicles(save, first, order):
    # Each vehicle of the label meets each of the coarse label, once.
    label = np.repeat(VEHICLES, 3)[None]
    coarse = np.tile(VEHICLES, 3)[None]
    # The first one is there in one pixel only, which it may lose.
    label = np.where(label == first, 0, label)
    label[0, 4] = first
    prob = np.full_like(label, 255)
    sample = save(label, prob, coarse)
    region = dict(box=(0, 1, 0, 9), ref_size=(1, 9))
    expected = theirs((label, prob, coarse), 0.5, None, order)
    assert np.array_equal(ours(sample, united=order, **region), expected)


def test_a_class_that_coarse_labels_take_away_is_not_united(save):
    # The only bus is a truck in the coarse label, and is united first.
    label = np.array([[27, 28, 0, 0]])
    coarse = np.array([[0, 27, 28, 28]])
    prob = np.full_like(label, 255)
    region = dict(box=(0, 1, 0, 4), ref_size=(1, 4))
    found = ours(save(label, prob, coarse), **region)
    assert found.tolist() == [[14, 14, 255, 255]]
    assert np.array_equal(found, theirs((label, prob, coarse), 0.5, None))


def test_presence_counts_within_the_region(save):
    # As theirs, where the region is cut out before.
    label = np.array([[28, 0, 0, 0]])
    coarse = np.array([[0, 28, 28, 28]])
    prob = np.full_like(label, 255)
    region = dict(box=(0, 1, 1, 4), ref_size=(1, 4))
    drop_mask = np.array([[0.0, 1, 1, 1]])
    found = ours(save(label, prob, coarse), **region)
    assert (found == 255).all()
    assert np.array_equal(found, theirs((label, prob, coarse), 0.5, drop_mask))


def test_every_value_at_every_edge(save):
    prob = np.arange(256).reshape(16, 16)
    label = np.full((16, 16), 7)
    arrays = label, prob, np.zeros((16, 16))
    sample = save(*arrays)
    thresholds = [0, 1, 0.5, 0.9, *(np.arange(256) / 255.0).tolist()]
    thresholds += np.nextafter(np.arange(255) / 255.0, 1).tolist()[::16]
    sample['gt_seg_map'] = read = theirs(arrays, 0, None)

    def ours(threshold):
        step = dict(type='ApplyConfidence', threshold=threshold)
        return TRANSFORMS.build(step)(dict(sample))['gt_seg_map']

    for threshold in thresholds:
        expected = authors.apply_threshold(read, prob, threshold)
        assert np.array_equal(ours(threshold), expected), threshold
    assert (ours(0) == 0).all()
    assert (ours(1) == 0).sum() == 1


def test_other_ids_pass_there_and_are_an_error_here(save):
    label = np.array([[7, 34, 200, 254]])
    arrays = label, np.full((1, 4), 255), np.zeros((1, 4))
    assert theirs(arrays, 0.5, None).tolist() == [[0, 34, 200, 254]]
    region = dict(box=(0, 1, 0, 4), ref_size=(1, 4))
    with pytest.raises(ValueError, match=r'34 \(1 px\), 200 \(1 px\), 254'):
        ours(save(*arrays), **region)
