"""Counts against literal loops, scores against mmseg's own.

Calibration against closed forms, the suggestion against brute force.
"""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from hmsa_mmseg.autolabel.calibration import (
    BINS,
    CONFIDENCE,
    reliability,
    suggest_level,
    threshold_of,
)
from hmsa_mmseg.autolabel.statistics import (
    IGNORE,
    THRESHOLDS,
    TruthCounts,
    all_thresholds,
    count_against,
    coverage,
    kept_counts,
)
from hmsa_mmseg.datasets.confidence import encode_confidence, is_kept
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


@pytest.mark.parametrize(
    ('threshold', 'lowest'), [(0, 0), (0.502, 129), (0.9, 230), (1, 255)]
)
def test_thresholds_keep_from_their_value_on(threshold, lowest):
    counts = np.ones((1, 256), np.int64)
    assert kept_counts(counts, [threshold]).tolist() == [[256 - lowest]]
    assert coverage(counts, [threshold])[0, 0] == (256 - lowest) / 256
    # One pixel just above, two just below.
    counts[:] = 0
    counts[0, lowest] = 1
    counts[0, max(lowest - 1, 0)] += 2
    expected = 1 if lowest == 0 else 1 / 3
    assert coverage(counts, [threshold])[0, 0] == pytest.approx(expected)


def test_what_makes_no_sense():
    truth, label, confidence = draw()
    with pytest.raises(ValueError, match='one size'):
        count_against(truth.T, label, confidence, K, THRESHOLDS)
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


def draw_calibrated(precision_of, count=200_000, seed=0):
    """Draw pixels of uniform confidence, right with a given probability."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(count, dtype=np.float32)
    right = rng.random(count) < precision_of(confidence)
    values = encode_confidence(confidence)
    return (
        np.bincount(values[right], minlength=256),
        np.bincount(values, minlength=256),
    )


def test_a_known_error_is_found():
    hits, pixels = draw_calibrated(lambda confidence: confidence)
    found = reliability(hits, pixels)
    # Each bin's error is some sqrt(p (1 - p) / 13000), 0.004 at most.
    assert found.error < 0.004
    assert abs(found.excess) < 0.003
    assert found.pixels.sum() == 200_000
    np.testing.assert_allclose(
        found.confidence, (np.arange(BINS) + 0.5) / BINS, atol=1e-3
    )
    # 0.2 too sure everywhere above 0.2: on average over all
    # 0.2 * 0.8 + the mean of 0 to 0.2 * 0.2 = 0.18.
    found = reliability(
        *draw_calibrated(lambda sure: np.maximum(sure - 0.2, 0))
    )
    assert found.error == pytest.approx(0.18, abs=0.004)
    assert found.excess == pytest.approx(0.18, abs=0.004)
    # Not sure enough, with the square root: the mean of sqrt(x) - x is 1/6.
    found = reliability(*draw_calibrated(np.sqrt))
    assert found.excess == pytest.approx(-1 / 6, abs=0.004)
    assert found.error == pytest.approx(1 / 6, abs=0.004)


def test_errors_of_both_signs_do_not_cancel():
    hits, pixels = np.zeros(256, int), np.zeros(256, int)
    # In the bins of 0.3 and 0.7: half of each is right.
    pixels[[77, 178]] = 100
    hits[[77, 178]] = 50
    found = reliability(hits, pixels)
    expected = (abs(CONFIDENCE[77] - 0.5) + abs(CONFIDENCE[178] - 0.5)) / 2
    assert found.error == pytest.approx(expected)
    assert expected > 0.19
    assert abs(found.excess) < 0.01
    assert np.isnan(found.precision).sum() == BINS - 2


def test_bins_are_those_of_the_exact_confidence():
    # Cut off to eight bits or not: the same bin.
    confidence = np.linspace(0, 1, 100_001, dtype=np.float32)
    exact = np.minimum((confidence * BINS).astype(int), BINS - 1)
    values = encode_confidence(confidence)
    found = np.minimum(values // 17, BINS - 1)
    # float32 cannot tell which side of an edge is meant.
    inside = np.abs(confidence * BINS - np.rint(confidence * BINS)) > 1e-4
    np.testing.assert_array_equal(found[inside], exact[inside])
    assert CONFIDENCE[255] == 1
    assert CONFIDENCE[128] == pytest.approx(128.5 / 255)


@pytest.mark.parametrize('target', [0.5, 0.9, 1])
def test_suggestion_is_the_best_of_all_levels(target):
    rng = np.random.default_rng(1)
    for _ in range(50):
        pixels = rng.integers(0, 4, 256) * (rng.random(256) < 0.3)
        hits = rng.binomial(pixels, np.linspace(0, 1, 256))
        gains = [
            (hits[level:].sum() - target * pixels[level:].sum(), -level)
            for level in range(256)
            if pixels[level]
        ]
        # Of equal gains the lowest level, up to rounding.
        best = max((round(gain, 9), level) for gain, level in gains)
        expected = -best[1] if best[0] >= 0 else None
        assert suggest_level(hits, pixels, target) == expected


def test_edges_of_the_suggestion():
    pixels = np.zeros(256, int)
    pixels[[100, 200]] = 10
    # All right: all that was seen is kept, nothing below.
    assert suggest_level(pixels, pixels, 1) == 100
    # All wrong, or nothing at all.
    assert suggest_level(0 * pixels, 0 * pixels, 0.5) is None
    assert np.isnan(reliability(0 * pixels, 0 * pixels).error)
    assert suggest_level(0 * pixels, pixels, 0.5) is None
    # Exactly the target.
    assert suggest_level(pixels // 2, pixels, 0.5) == 100
    for target in (0, -1, 1.1, True, float('nan')):
        with pytest.raises(ValueError, match='target precision'):
            suggest_level(pixels, pixels, target)


def test_thresholds_are_short_and_keep_what_they_mean():
    for level in range(256):
        threshold = threshold_of(level)
        kept = is_kept(threshold)
        assert kept.argmax() == level
        assert kept.sum() == 256 - level
        assert len(f'{threshold:g}') <= 5
    assert (threshold_of(0), threshold_of(128)) == (0, 0.5)
    assert (threshold_of(230), threshold_of(255)) == (0.9, 1)
