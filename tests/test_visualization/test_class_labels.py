"""Where names of classes stand, and that they can be read."""

import numpy as np
import pytest

from hmsa_mmseg.visualization.class_labels import (
    Text,
    draw_class_labels,
    find_place,
)
from hmsa_mmseg.visualization.colours import text_colour

PALETTE = np.array([[40, 40, 40], [220, 220, 0], [0, 0, 142]], np.uint8)
NAMES = ('road', 'sign', 'car')


def blank(size=(200, 300)):
    return np.zeros(size, np.int64)


def test_place_is_the_middle_of_a_rectangle():
    classes = blank()
    classes[40:81, 100:161] = 1
    x, y, room = find_place(classes, 1)
    assert y == 60
    assert x == 130
    assert room == 41


def test_place_has_the_shape_of_the_text():
    """A tall part has more room for a square, a wide one for a text."""
    classes = blank()
    classes[20:180, 20:60] = 1
    classes[160:180, 20:280] = 1
    assert find_place(classes, 1)[1] < 160
    x, y, room = find_place(classes, 1, aspect=6.0)
    assert 160 <= y < 180
    assert abs(x - 150) <= 6
    assert 14 <= room <= 26


@pytest.mark.parametrize('size', [(1, 1), (3, 500), (500, 3), (7, 7)])
def test_any_size_has_a_place(size):
    x, y, room = find_place(np.ones(size, int), 1, aspect=8.0)
    assert 0 <= x < size[1]
    assert 0 <= y < size[0]
    assert room > 0


@pytest.mark.parametrize('index', [1, 2])
def test_label_is_drawn_within_its_region_only(index):
    classes = blank((1024, 1024))
    classes[60:140, 100:400] = index
    picture = np.full((1024, 1024, 3), 99, np.uint8)
    names = list(NAMES)
    names[0] = ''  # of the background
    draw_class_labels(picture, classes, names, PALETTE)
    rows, cols = np.nonzero((picture != 99).any(axis=-1))
    assert rows.size
    assert (rows.min() >= 60) & (rows.max() < 140)
    assert (cols.min() >= 100) & (cols.max() < 400)
    # The text, and the colour of the class around it.
    for colour in (text_colour(PALETTE[index]), PALETTE[index]):
        assert (picture == colour).all(axis=-1).any()


def test_small_regions_have_no_label():
    classes = blank((256, 512))
    classes[::16, ::16] = 1
    classes[100:103, 20:300] = 2
    picture = np.full((256, 512, 3), 99, np.uint8)
    draw_class_labels(picture, classes, ['', 'sign', 'car'], PALETTE)
    assert (picture == 99).all()


def test_labels_at_the_border_are_not_cut():
    classes = np.ones((40, 300), np.int64)
    classes[:, 60:] = 0
    picture = np.full((40, 300, 3), 99, np.uint8)
    draw_class_labels(picture, classes, ['', 'sign'], PALETTE)
    cols = np.nonzero((picture != 99).any(axis=(0, 2)))[0]
    text = Text.for_image((40, 300))
    assert cols.min() >= 0
    assert cols.max() - cols.min() >= 0.9 * text.size('sign')[0]
