"""Confidence in eight bits, at all edges."""

import numpy as np
import pytest
from oracles import labels as authors

from hmsa_mmseg.datasets.confidence import (
    LEVELS,
    check_threshold,
    encode_confidence,
    is_kept,
)


def test_as_the_authors_store_it():
    steps = np.arange(256, dtype=np.float32) / np.float32(255)
    # Each step, and the numbers next to it.
    edges = np.stack([steps, np.nextafter(steps, 0), np.nextafter(steps, 1)])
    edges = edges.clip(0, 1).astype(np.float32)
    found = encode_confidence(edges)
    assert found.dtype == np.uint8
    # utils/misc.py: ImageDumper.
    assert np.array_equal(found, (edges * 255).astype(np.uint8))


@pytest.mark.parametrize('threshold', [0, 0.3, 0.5, 128 / 255, 0.9, 1])
def test_as_the_authors_read_it(threshold):
    values = np.arange(256)
    read = authors.apply_threshold(np.zeros(256), values, threshold)
    assert np.array_equal(is_kept(threshold), read == 0)
    assert np.array_equal(LEVELS * 255, values)


def test_what_is_no_confidence():
    for value in (np.nan, -0.01, 1.01, np.inf):
        with pytest.raises(ValueError, match='expected numbers from 0 to 1'):
            encode_confidence(np.float32([[0.5, value]]))
    for value in (-0.1, 1.1, True, np.nan):
        with pytest.raises(ValueError, match='threshold='):
            check_threshold(value)
