"""Counts against literal loops, scores against mmseg's own."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from hmsa_mmseg.autolabel.statistics import (
    IGNORE,
    THRESHOLDS,
    TruthCounts,
    all_thresholds,
    count_against,
    coverage,
    kept_counts,
)
from hmsa_mmseg.utils import confusion
from hmsa_mmseg.utils.confusion import scores

K = 5


def draw(seed=0, size=(13, 17), num_classes=K):
    """Return a true label, one that is mostly right, and confidence."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, size, dtype=np.uint8)
    label = truth.copy()
    wrong = rng.random(size) < 0.4
    label[wrong] = rng.integers(0, num_classes, wrong.sum())
    truth[rng.random(size) < 0.2] = IGNORE
    confidence = rng.integers(0, 256, size, dtype=np.uint8)
    # What the thresholds decide by a hair.
    confidence[0, :6] = [127, 128, 229, 230, 254, 255]
    return truth, label, confidence


@pytest.mark.parametrize('strip', [1 << 20, 7])
def test_truth_is_counted_as_by_hand(monkeypatch, strip):
    monkeypatch.setattr(confusion, '_STRIP', strip)
    truth, label, confidence = draw()
    thresholds = all_thresholds(0.73)
    counts = count_against(truth, label, confidence, K, thresholds)
    expected = TruthCounts.empty(K, len(thresholds))
    kept = np.zeros((len(thresholds), K, K), int)
    for t, k, value in zip(truth.flat, label.flat, confidence.flat):
        if t == IGNORE:
            continue
        expected.given[k, value] += 1
        expected.hits[k, value] += t == k
        for i, threshold in enumerate(thresholds):
            kept[i, t, k] += value / 255 >= threshold
    for found, wanted in zip(counts[1:], expected[1:]):
        np.testing.assert_array_equal(found, wanted)
    for i in range(len(thresholds)):
        np.testing.assert_array_equal(counts.at(i), kept[i])
    twice = counts + counts
    for one, two in zip(counts, twice):
        np.testing.assert_array_equal(2 * one, two)


def test_sizes_must_agree():
    truth, label, confidence = draw()
    with pytest.raises(ValueError, match='one size'):
        count_against(truth.T, label, confidence, K, THRESHOLDS)


@pytest.mark.parametrize(
    ('threshold', 'lowest'),
    [(0, 0), (0.5, 128), (0.502, 129), (0.9, 230), (0.99, 253), (1, 255)],
)
def test_thresholds_keep_from_their_value_on(threshold, lowest):
    counts = np.ones((1, 256), np.int64)
    kept = kept_counts(counts, [threshold])
    assert kept.tolist() == [[256 - lowest]]
    assert coverage(counts, [threshold])[0, 0] == (256 - lowest) / 256
    # One pixel just above, two just below.
    counts[:] = 0
    counts[0, lowest] = 1
    counts[0, max(lowest - 1, 0)] += 2
    expected = 1 if lowest == 0 else 1 / 3
    assert coverage(counts, [threshold])[0, 0] == pytest.approx(expected)


def test_thresholds_are_sorted_and_checked():
    assert all_thresholds(0.5, 0.25)[:3] == (0, 0.25, 0.5)
    with pytest.raises(ValueError, match=r'threshold=1\.5'):
        all_thresholds(1.5)
    # Nothing to be kept is not none that is kept.
    assert np.isnan(coverage(np.zeros((2, 256), int), [0, 0.5])).all()


def test_iou_is_that_of_mmseg():
    classes = [f'class {k}' for k in range(K + 1)]
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=classes)
    total = TruthCounts.empty(K + 1, 1)
    for seed in range(3):
        # The last class neither is nor is given.
        truth, label, confidence = draw(seed)
        total += count_against(truth, label, confidence, K + 1, [0])
        samples = [
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(label)[None].long()),
                gt_sem_seg=dict(data=torch.from_numpy(truth)[None].long()),
            )
        ]
        metric.process({}, samples)
    expected = metric.compute_metrics(metric.results)
    found = scores(total.at(0))
    assert np.isnan([found[k][-1] for k in ('IoU', 'Acc', 'Precision')]).all()
    for key in ('mIoU', 'mAcc', 'aAcc'):
        # mmseg rounds.
        assert round(found[key], 2) == pytest.approx(expected[key])
    hits = total.hits.sum() / total.given.sum()
    assert round(100 * hits, 2) == pytest.approx(expected['aAcc'])


def test_many_classes_take_little_memory():
    label = np.arange(255, dtype=np.uint8)[None]
    counts = count_against(label, label, label, 255, THRESHOLDS)
    assert sum(table.nbytes for table in counts) < 8e6
    assert counts.hits.sum() == 255
    assert np.trace(counts.at(1)) == 255 - 128
