"""Colours that can be told apart and read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmseg.datasets import BaseSegDataset

from hmsa_mmseg.visualization.colours import (
    as_palette,
    contrast,
    luminance,
    paint,
    scale_palette,
    text_colour,
)

BYTE = st.integers(0, 255)


def test_luminance_and_contrast_of_known_colours():
    # The coefficients of the primaries.
    assert luminance((255, 0, 0)) == pytest.approx(0.2126)
    assert luminance((0, 255, 0)) == pytest.approx(0.7152)
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    # The usual example of the darkest grey of level AA on white.
    grey = contrast((118, 118, 118), (255, 255, 255))
    assert grey == pytest.approx(4.54, abs=0.005)
    # Scales are told apart by lightness alone.
    colours = scale_palette(6)
    assert all(contrast(a, b) > 1.25 for a, b in zip(colours, colours[1:]))
    assert np.all(np.diff([luminance(colour) for colour in colours]) > 0)


@given(st.tuples(BYTE, BYTE, BYTE))
def test_text_is_readable_on_any_colour(colour):
    assert contrast(text_colour(colour), colour) > 4.5


def test_palettes(tmp_path):
    """The default is that of mmseg; what is none is refused."""
    dataset = BaseSegDataset(
        data_root=str(tmp_path),
        metainfo=dict(classes=[f'class {k}' for k in range(65)]),
        lazy_init=True,
    )
    # Only then does mmseg make colours.
    dataset._metainfo.update(palette=[])
    dataset.label_map = {}
    expected = dataset._update_palette()
    assert as_palette(None, 65).tolist() == expected
    assert as_palette([], 65).tolist() == expected
    black, pair = [0, 0, 0], [[0, 0], [0, 0]]
    for wrong in ([black], pair, [black, [0, 0, 256]], [black, [0, 0, -1]]):
        with pytest.raises(ValueError, match=r'a colour \(R, G, B\), 0 to 25'):
            as_palette(wrong, 2)


@pytest.mark.parametrize('num_classes', [1, 255, 256])
def test_paint_gives_each_pixel_its_colour(num_classes):
    rng = np.random.default_rng(0)
    palette = rng.integers(1, 256, (num_classes, 3)).astype(np.uint8)
    classes = rng.integers(0, num_classes, (7, 9))
    classes[0, :4] = -1, num_classes, 1 << 20, -(1 << 20)
    painted = paint(classes, palette)
    assert not painted[0, :4].any()
    rest = classes.ravel()[4:]
    np.testing.assert_array_equal(painted.reshape(-1, 3)[4:], palette[rest])
