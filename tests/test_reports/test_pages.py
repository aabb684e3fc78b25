"""What all pages share."""

import math

import numpy as np
import pytest
from PIL import Image
from test_reports.html_page import Page, picture

from hmsa_mmseg.reports import build_page
from hmsa_mmseg.reports.charts import marks
from hmsa_mmseg.reports.pages import number, shrunk_uri


def test_a_template_of_somebody_else(tmp_path):
    template = tmp_path / 'mine.html.j2'
    template.write_text(
        "{% extends 'base.html.j2' %}\n"
        '{% block main %}<p id="a">{{ name }}: {{ part | percent }}</p>\n'
        '{% endblock %}'
    )
    text = build_page(template, title='T', name='<b>\udcff', part=0.5)
    page = Page(text)
    (found,) = page.find('p', id='a')
    assert found['text'] == '<b>\ufffd: 50.0'
    assert page.find('title')[0]['text'] == 'T'
    assert page.find('style')[0]['text'].strip()
    assert page.find('script')[0]['text'].strip()


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


def test_texts_of_marks_are_apart():
    for places in ((0.5, 0.9), (0.88, 0.9), (0.5, 0.52, 0.9), (0.2, 0.98)):
        found = marks({place: f'{place:g}' for place in places})
        boxes = []
        for mark in found:
            # Seven units for each letter are plenty.
            length = (
                7 * len(mark['text']) * (1 if mark['side'] == 'start' else -1)
            )
            left, right = sorted([mark['x'], mark['x'] + length])
            assert left >= 44
            assert right <= 344
            boxes.append((mark['row'], left, right))
        for i, (row, left, right) in enumerate(boxes):
            for other in boxes[:i]:
                assert row != other[0] or left >= other[2] or right <= other[1]
