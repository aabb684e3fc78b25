"""Confidence in eight bits, at all edges."""

import numpy as np
import pytest

from hmsa_mmseg.datasets.confidence import (
    LEVELS,
    check_threshold,
    encode_confidence,
    is_kept,
)


def literal_stored(confidence):
    """As the authors write it (utils/misc.py: ImageDumper)."""
    return (confidence * 255).astype(np.uint8)


def literal_kept(stored, threshold):
    """As the authors read it (datasets/base_loader.py)."""
    return ~(stored / 255.0 < threshold)


def test_as_the_authors_store_it():
    steps = np.arange(256, dtype=np.float32) / np.float32(255)
    # Each step, and the numbers next to it.
    edges = np.concatenate(
        [steps, np.nextafter(steps, 0), np.nextafter(steps, 1)]
    ).astype(np.float32)
    found = encode_confidence(edges)
    assert found.dtype == np.uint8
    assert np.array_equal(found, literal_stored(edges))
    assert encode_confidence(np.float32([0, 1])).tolist() == [0, 255]
    maps = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    assert np.array_equal(encode_confidence(maps), literal_stored(maps))


@pytest.mark.parametrize('threshold', [0, 0.3, 0.5, 128 / 255, 0.9, 1])
def test_as_the_authors_read_it(threshold):
    values = np.arange(256)
    assert np.array_equal(is_kept(threshold), literal_kept(values, threshold))
    assert np.array_equal(LEVELS * 255, values)


def test_first_values_that_are_kept():
    """DATA: 0.5 keeps from 0.50196 on, 0.9 from 0.90196."""
    assert np.argmax(is_kept(0.5)) == 128
    assert np.argmax(is_kept(0.9)) == 230


@pytest.mark.parametrize('value', [np.nan, -0.01, 1.01, np.inf])
def test_what_is_no_confidence(value):
    with pytest.raises(ValueError, match='expected numbers from 0 to 1'):
        encode_confidence(np.float32([[0.5, value]]))


@pytest.mark.parametrize('value', [-0.1, 1.1, True, np.nan])
def test_what_is_no_threshold(value):
    with pytest.raises(ValueError, match='threshold='):
        check_threshold(value)
