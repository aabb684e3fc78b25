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


def labelled(classes):
    """Whether pixels of a grey picture change, and the picture."""
    picture = np.full((*classes.shape, 3), 99, np.uint8)
    draw_class_labels(picture, classes, ['', 'sign', 'car'], PALETTE)
    return (picture != 99).any(axis=-1), picture


def test_place_is_the_middle_of_a_rectangle_of_the_shape_of_the_text():
    classes = np.zeros((200, 300), int)
    classes[40:81, 100:161] = 1
    assert find_place(classes, 1) == (130, 60, 41)
    # A tall part has more room for a square, a wide one for a text.
    classes[:] = 0
    classes[20:180, 20:60] = 1
    classes[160:180, 20:280] = 1
    assert find_place(classes, 1)[1] < 160
    x, y, room = find_place(classes, 1, aspect=6.0)
    assert 160 <= y < 180
    assert abs(x - 150) <= 6
    assert 14 <= room <= 26
    for height, width in ((1, 1), (3, 500), (500, 3)):
        x, y, room = find_place(np.ones((height, width), int), 1, aspect=8.0)
        assert 0 <= x < width
        assert 0 <= y < height
        assert room > 0


@pytest.mark.parametrize('index', [1, 2])
def test_label_is_drawn_within_its_region_only(index):
    classes = np.zeros((1024, 1024), int)
    classes[60:140, 100:400] = index
    # Too small for a label.
    classes[600:604, 100:400] = 3 - index
    changed, picture = labelled(classes)
    assert changed.any()
    assert not (changed & (classes != index)).any()
    # The text, and the colour of the class around it.
    for colour in (text_colour(PALETTE[index]), PALETTE[index]):
        assert (picture == colour).all(axis=-1).any()


def test_labels_at_the_border_are_not_cut():
    classes = np.ones((40, 300), int)
    classes[:, 60:] = 0
    columns = np.nonzero(labelled(classes)[0].any(axis=0))[0]
    width, _ = Text.for_image((40, 300)).size('sign')
    assert columns.max() - columns.min() >= 0.9 * width
