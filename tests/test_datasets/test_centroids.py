"""Centroids of the classes in tiles of a label."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import labels as authors

from hmsa_mmseg.datasets.centroids import class_centroids


def by_class(rows):
    found = defaultdict(list)
    for x, y, class_id in rows.tolist():
        found[class_id].append((x, y))
    return dict(found)


@pytest.mark.parametrize(('tiles', 'tile_size'), [((1, 1), 16), ((4, 2), 5)])
def test_same_as_the_authors_loop(tiles, tile_size):
    rng = np.random.default_rng(0)
    for _ in range(20):
        size = [n * tile_size for n in tiles]
        label = rng.choice([0, 1, 2, 3, 7, 255], size).astype(np.uint8)
        label[rng.random(size) < 0.7] = 255
        ours = class_centroids(label, 8, tile_size).tolist()
        assert [*map(tuple, ours)] == authors.centroids(label, tile_size, 8)


def test_strips_beside_the_tiles_are_covered():
    # 2 tiles of 4 in a width of 11: the second one is 7 wide.
    label = np.full((5, 11), 255, np.uint8)
    label[:, 10] = 1
    label[4, 0] = 0
    assert authors.centroids(label, 4, 2) == []
    assert class_centroids(label, 2, 4).tolist() == [[0, 4, 0], [10, 2, 1]]


def test_labels_of_unusual_sizes():
    for size in ((1, 7), (3, 5)):
        label = np.zeros(size, np.uint8)
        middle = [(size[1] - 1) // 2, (size[0] - 1) // 2, 0]
        assert class_centroids(label, 1, 1024).tolist() == [middle]
    label = np.full((1, 70000), 255, np.uint8)
    assert class_centroids(label, 1, 1024).shape == (0, 3)
    label[0, -1] = 0
    assert class_centroids(label, 1, 1024).tolist() == [[69999, 0, 0]]


@given(
    label=hnp.arrays(
        np.int64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 1, 2, 254, 255]),
    ),
    tile_size=st.integers(1, 15),
)
def test_every_class_has_centroids_where_it_is(label, tile_size):
    rows = class_centroids(label, 3, tile_size)
    assert {*rows[:, 2].tolist()} == {*label[label < 3].tolist()}
    tiles = np.prod([max(n // tile_size, 1) for n in label.shape])
    for class_id, points in by_class(rows).items():
        y, x = np.nonzero(label == class_id)
        assert len(points) <= min(tiles, len(x))
        for point in points:
            assert x.min() <= point[0] <= x.max()
            assert y.min() <= point[1] <= y.max()
