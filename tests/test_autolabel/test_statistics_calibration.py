"""Calibration against closed forms, the suggestion against brute force."""

import numpy as np
import pytest

from hmsa_mmseg.autolabel.calibration import (
    BINS,
    CONFIDENCE,
    reliability,
    suggest_level,
    threshold_of,
)
from hmsa_mmseg.datasets.confidence import encode_confidence, is_kept


def draw(precision_of, count=200_000, seed=0):
    """Draw pixels of uniform confidence, right with a given probability."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(count, dtype=np.float32)
    right = rng.random(count) < precision_of(confidence)
    values = encode_confidence(confidence)
    return (
        np.bincount(values[right], minlength=256),
        np.bincount(values, minlength=256),
    )


def test_a_calibrated_teacher_has_no_error():
    hits, pixels = draw(lambda confidence: confidence)
    found = reliability(hits, pixels)
    # Each bin's error is some sqrt(p (1 - p) / 13000), 0.004 at most.
    assert found.error < 0.004
    assert abs(found.excess) < 0.003
    assert found.pixels.sum() == 200_000
    np.testing.assert_allclose(
        found.confidence, (np.arange(BINS) + 0.5) / BINS, atol=1e-3
    )


def test_a_known_error_is_found():
    # 0.2 too sure everywhere above 0.2: on average over all
    # 0.2 * 0.8 + the mean of 0 to 0.2 * 0.2 = 0.18.
    hits, pixels = draw(lambda confidence: np.maximum(confidence - 0.2, 0))
    found = reliability(hits, pixels)
    assert found.error == pytest.approx(0.18, abs=0.004)
    assert found.excess == pytest.approx(0.18, abs=0.004)
    # Not sure enough, with the square root: the mean of sqrt(x) - x is 1/6.
    found = reliability(*draw(np.sqrt))
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


def test_suggestions_for_teachers_that_are_known():
    """One that is right as often as it says, and one that is too sure."""
    for excess in (0, 0.2):
        hits, pixels = draw(
            lambda confidence, excess=excess: np.maximum(
                confidence - excess, 0
            ),
            count=2_000_000,
        )
        level = suggest_level(hits, pixels, 0.5)
        # The next levels gain and lose almost nothing.
        assert level / 255 == pytest.approx(0.5 + excess, abs=0.03)


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
