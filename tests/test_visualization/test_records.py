"""Records of images: whole, of one run, and never another image's."""

import dataclasses
import json
import os

import cv2
import numpy as np
import pytest

from hmsa_mmseg.visualization import (
    FOLDER,
    check_run,
    make_record,
    read_record,
    read_records,
    read_run,
    write_pictures,
    write_record,
    write_run,
)
from hmsa_mmseg.visualization.records import JPEG_QUALITY

from .conftest import CLASSES, PALETTE


@pytest.fixture
def record(make_sample):
    return make_record('city/photo.png', make_sample(), CLASSES, PALETTE)


def test_record_is_read_as_it_was_written(tmp_path, record, make_sample):
    path = write_record(tmp_path, record)
    assert path == tmp_path / FOLDER / 'city' / 'photo.json'
    assert read_record(path) == record
    stock = make_sample(scales=(), labels=False)
    stock = make_record('city/photo.png', stock, CLASSES)
    assert read_record(write_record(tmp_path, stock)) == stock
    assert read_records(tmp_path) == [stock]
    assert 'intersect' not in json.loads(path.read_text())


def test_records_are_sorted_and_parts_are_none(tmp_path, record):
    for name in ('b.png', 'a/c.png', 'run.png'):
        write_record(tmp_path, dataclasses.replace(record, image=name))
    (tmp_path / FOLDER / 'run.json').write_text('{}')
    # Of a process that was killed.
    (tmp_path / FOLDER / '.d.json.123.part').write_text('{"vers')
    images = [found.image for found in read_records(tmp_path)]
    assert images == ['a/c.png', 'b.png', 'run.png']


def test_pictures_are_written(tmp_path, image):
    pictures = {'input': image, 'prediction': image, 'scale_0.5': image}
    paths = write_pictures(tmp_path, 'city/photo.jpeg', pictures)
    assert paths == {
        'input': 'scale_maps/city/photo/input.jpg',
        'prediction': 'scale_maps/city/photo/prediction.png',
        'scale_0.5': 'scale_maps/city/photo/scale_0.5.png',
    }
    for key in ('prediction', 'scale_0.5'):
        found = cv2.imread(str(tmp_path / paths[key]))[..., ::-1]
        np.testing.assert_array_equal(found, image)
    flat = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    paths = write_pictures(tmp_path, 'flat.png', {'weight_1': flat})
    found = cv2.imread(str(tmp_path / paths['weight_1']))[..., ::-1]
    assert JPEG_QUALITY > 90
    np.testing.assert_allclose(found.astype(int), flat, atol=3)
    assert not list(tmp_path.rglob('*.part'))


def test_full_disk_is_an_error(tmp_path, image, record, monkeypatch):
    before = write_record(tmp_path, record).read_bytes()

    def fail(*args):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='No space'):
        write_pictures(tmp_path, 'photo.png', {'input': image})

    with pytest.raises(OSError, match='No space'):
        write_record(tmp_path, dataclasses.replace(record, size=(1, 1)))
    (path,) = tmp_path.rglob('*.json')
    assert path.read_bytes() == before
    assert [*tmp_path.rglob('*.*')] == [path]


def test_images_that_differ_by_suffix_do_not_replace_each_other(
    tmp_path, record
):
    write_record(tmp_path, record)
    other = dataclasses.replace(record, image='city/photo.jpg')
    with pytest.raises(ValueError, match=r'photo.json is of the image city/p'):
        write_record(tmp_path, other)
    assert read_records(tmp_path) == [record]


def test_no_records(tmp_path):
    with pytest.raises(FileNotFoundError, match='no records of images in'):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text[:-20], 'is damaged'),
        (lambda text: '[1]', 'not written by this program'),
        (lambda text: text.replace('"version": 1', '"version": 2'), 'got 2'),
        (lambda text: '{"version": 1, "info": 3}', 'is no record'),
        (lambda text: text.replace('"size"', '"sise"'), 'is no record'),
        (
            lambda text: text.replace('"intersect": [', '"intersect": [1, '),
            r'damaged: intersect has \(4,\), expected \(3,\)',
        ),
        (
            lambda text: text.replace('"labelled": [', '"labelled": ["x", '),
            'damaged: labelled has no numbers',
        ),
    ],
)
def test_damaged_and_foreign_files_are_named(
    tmp_path, record, change, message
):
    path = write_record(tmp_path, record)
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(ValueError, match=rf'photo.json.*{message}'):
        read_records(tmp_path)


def test_records_of_two_runs_are_not_mixed(tmp_path, record):
    write_record(tmp_path, record)
    classes = ('road', 'tree', 'sea')
    other = dataclasses.replace(record, image='z.png', classes=classes)
    write_record(tmp_path, other)
    with pytest.raises(ValueError, match=r'z.json has .* different runs'):
        read_records(tmp_path)


def test_a_repeated_run_is_the_same_run_and_another_is_refused(tmp_path):
    run = dict(config='a.py', checkpoint='a.pth', scales=[0.5, 1.0], date='x')
    assert read_run(tmp_path) is None
    check_run(tmp_path, run)
    found = {**run, 'metrics': {'mIoU': 3.0}, 'num_images': 2}
    write_run(tmp_path, found)
    assert read_run(tmp_path) == found
    check_run(tmp_path, {**run, 'date': 'y'})
    for key, value in (('checkpoint', 'b.pth'), ('scales', []), ('tta', 'T')):
        match = rf'another run \({key}: .*, now '
        with pytest.raises(ValueError, match=match):
            check_run(tmp_path, {**run, key: value})
    (tmp_path / FOLDER / 'run.json').write_text('{')
    with pytest.raises(ValueError, match=r'run.json is damaged'):
        check_run(tmp_path, run)
