"""Counts against loops over pixels."""

import numpy as np
import pytest
import torch

from hmsa_mmseg.visualization import make_record

from .conftest import CLASSES, PALETTE, SCALES, SIZE

K, S = len(CLASSES), len(SCALES)


def data(sample, field):
    return sample.get(field).data.numpy()


def test_counts_of_one_image(make_sample):
    sample = make_sample()
    record = make_record('a.png', sample, CLASSES, PALETTE)
    prediction = data(sample, 'pred_sem_seg')[0]
    label = data(sample, 'gt_sem_seg')[0]
    weights = data(sample, 'scale_weights')
    single = data(sample, 'scale_sem_seg')
    names = ('class_pixels', 'intersect', 'predicted', 'labelled')
    one = {name: np.zeros(K, int) for name in names}
    names = (
        *('scale_intersect', 'scale_predicted', 'class_weights'),
        *('class_wins', 'labelled_weights', 'labelled_wins'),
    )
    each = {name: np.zeros((S, K)) for name in names}
    for y, x in np.ndindex(*SIZE):
        guess, truth = prediction[y, x], label[y, x]
        here = weights[:, y, x]
        one['class_pixels'][guess] += 1
        each['class_weights'][:, guess] += here
        each['class_wins'][here.argmax(), guess] += 1
        if truth == 255:
            continue
        one['labelled'][truth] += 1
        one['predicted'][guess] += 1
        one['intersect'][truth] += guess == truth
        each['labelled_weights'][:, truth] += here
        each['labelled_wins'][here.argmax(), truth] += 1
        for s in range(S):
            each['scale_predicted'][s, single[s, y, x]] += 1
            each['scale_intersect'][s, truth] += single[s, y, x] == truth
    for name, expected in one.items():
        assert getattr(record, name) == expected.tolist()
    for name, expected in each.items():
        np.testing.assert_allclose(getattr(record, name), expected, rtol=1e-5)
    confidence = data(sample, 'confidence').mean()
    assert record.mean_confidence == pytest.approx(confidence)
    assert (record.size, record.scales) == (SIZE, SCALES)
    # Another value is ignored.
    labels = sample.gt_sem_seg.data
    labels[labels == 255] = -1
    found = make_record('a.png', sample, CLASSES, PALETTE, ignore_index=-1)
    assert found == record


def test_several_winners_and_stock_models_without_scales(make_sample):
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
    stock = make_sample(scales=(), labels=False)
    record = make_record('a.png', stock, CLASSES)
    assert record.intersect is record.class_weights is None
    assert record.mean_confidence is None
