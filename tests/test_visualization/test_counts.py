"""Counts against loops over pixels, and against mmseg's IoUMetric."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from hmsa_mmseg.visualization import (
    class_iou,
    make_record,
    scale_class_iou,
    scale_shares,
)

from .conftest import CLASSES, PALETTE, SCALES, SIZE

K, S = len(CLASSES), len(SCALES)


def data(sample, field):
    return sample.get(field).data.numpy()


@pytest.fixture
def samples(make_sample):
    return [make_sample(seed) for seed in range(3)]


@pytest.fixture
def records(samples):
    return [
        make_record(f'{k}.png', sample, CLASSES, PALETTE)
        for k, sample in enumerate(samples)
    ]


def test_counts_of_one_image(samples, records):
    sample, record = samples[0], records[0]
    prediction = data(sample, 'pred_sem_seg')[0]
    label = data(sample, 'gt_sem_seg')[0]
    weights = data(sample, 'scale_weights')
    single = data(sample, 'scale_sem_seg')
    one = {
        name: np.zeros(K, int)
        for name in ('class_pixels', 'intersect', 'predicted', 'labelled')
    }
    each = {
        name: np.zeros((S, K))
        for name in (
            *('scale_intersect', 'scale_predicted', 'class_weights'),
            *('class_wins', 'labelled_weights', 'labelled_wins'),
        )
    }
    for y, x in np.ndindex(*SIZE):
        guess, truth = prediction[y, x], label[y, x]
        here = weights[:, y, x]
        one['class_pixels'][guess] += 1
        each['class_weights'][:, guess] += here
        each['class_wins'][max(range(S), key=lambda s: here[s]), guess] += 1
        if truth == 255:
            continue
        one['labelled'][truth] += 1
        one['predicted'][guess] += 1
        one['intersect'][truth] += guess == truth
        each['labelled_weights'][:, truth] += here
        each['labelled_wins'][max(range(S), key=lambda s: here[s]), truth] += 1
        for s in range(S):
            each['scale_predicted'][s, single[s, y, x]] += 1
            each['scale_intersect'][s, truth] += single[s, y, x] == truth
    for name, expected in one.items():
        assert getattr(record, name) == expected.tolist()
    for name, expected in each.items():
        np.testing.assert_allclose(getattr(record, name), expected, rtol=1e-5)
    assert record.mean_confidence == pytest.approx(
        data(sample, 'confidence').mean()
    )
    assert (record.size, record.scales) == (SIZE, SCALES)


def test_iou_is_that_of_mmseg(samples, records):
    for name, found in (
        ('pred_sem_seg', class_iou(records)),
        *((s, iou) for s, iou in enumerate(scale_class_iou(records))),
    ):
        intersect = union = 0
        for sample in samples:
            classes = (
                sample.pred_sem_seg.data[0]
                if name == 'pred_sem_seg'
                else sample.scale_sem_seg.data[name]
            )
            areas = IoUMetric.intersect_and_union(
                classes.long(), sample.gt_sem_seg.data[0], K, 255
            )
            intersect, union = intersect + areas[0], union + areas[1]
        expected = (intersect / union).double().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_no_scale_wins_where_several_have_the_largest_weight(make_sample):
    sample = make_sample()
    weights = sample.scale_weights.data
    weights[:] = torch.tensor([0.2, 0.4, 0.4])[:, None, None]
    weights[:, :6] = torch.tensor([0.6, 0.2, 0.2])[:, None, None]
    record = make_record('a.png', sample, CLASSES)
    prediction = data(sample, 'pred_sem_seg')[0]
    first = np.bincount(prediction[:6].ravel(), minlength=K)
    np.testing.assert_array_equal(
        record.class_wins, [first, 0 * first, 0 * first]
    )
    shares = scale_shares([record], wins=True)
    np.testing.assert_allclose(shares[0], first / record.class_pixels)


def test_without_labels_or_scales(make_sample):
    stock = make_sample(scales=(), labels=False)
    record = make_record('a.png', stock, CLASSES)
    assert record.intersect is record.class_weights is None
    assert record.mean_confidence is None
    assert sum(record.class_pixels) == SIZE[0] * SIZE[1]
    assert np.isnan(class_iou([record])).all()
    assert scale_shares([record]).shape == (0, K)
    assert scale_class_iou([record]).shape == (0, K)


def test_images_without_labels_do_not_count(make_sample, records):
    bare = make_record('z.png', make_sample(9, labels=False), CLASSES)
    mixed = [*records, bare]
    np.testing.assert_array_equal(class_iou(mixed), class_iou(records))
    np.testing.assert_array_equal(
        scale_shares(mixed, by='labelled'),
        scale_shares(records, by='labelled'),
    )
    assert (scale_shares(mixed) != scale_shares(records)).all()


def test_other_ignore_index(make_sample):
    sample = make_sample()
    expected = make_record('a.png', sample, CLASSES)
    label = sample.gt_sem_seg.data
    label[label == 255] = -1
    found = make_record('a.png', sample, CLASSES, ignore_index=-1)
    assert found == expected
    assert torch.is_tensor(label)
