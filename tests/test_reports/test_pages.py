"""What all pages share."""

import math

import numpy as np
import pytest
from PIL import Image
from test_reports.html_page import picture

from hmsa_mmseg.reports.charts import marks
from hmsa_mmseg.reports.pages import number, shrunk_uri


@pytest.mark.parametrize(
    ('value', 'options', 'text'),
    [
        (None, {}, '\N{EN DASH}'),
        (math.nan, {}, '\N{EN DASH}'),
        (-0.04, {}, '0.0'),
        (-1.26, {}, '\N{MINUS SIGN}1.3'),
        (0.123, dict(digits=0, factor=100, sign='+'), '+12'),
    ],
)
def test_numbers(value, options, text):
    assert number(value, **options) == text


def test_pictures_are_made_smaller():
    rng = np.random.default_rng(0)
    pixels = rng.choice([0, 255], (20, 64, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    flat = picture(shrunk_uri(image, 32, flat=True))
    assert flat.size == (32, 10)
    assert {*np.unique(flat)} == {0, 255}
    assert len(np.unique(picture(shrunk_uri(image, 32, flat=False)))) > 2
    assert picture(shrunk_uri(image, 100, flat=True)).size == (64, 20)


@pytest.mark.parametrize(
    'places', [(0.5, 0.9), (0.88, 0.9), (0.5, 0.52, 0.9), (0.2, 0.98)]
)
def test_texts_of_marks_are_apart(places):
    boxes = []
    for mark in marks({place: f'{place:g}' for place in places}):
        # Seven units for each letter are plenty.
        length = 7 * len(mark['text'])
        end = mark['x'] + (length if mark['side'] == 'start' else -length)
        left, right = sorted([mark['x'], end])
        assert left >= 44
        assert right <= 344
        for row, other_left, other_right in boxes:
            is_apart = left >= other_right or right <= other_left
            assert row != mark['row'] or is_apart
        boxes.append((mark['row'], left, right))
