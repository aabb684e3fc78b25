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

from .conftest import CLASSES, PALETTE


@pytest.fixture
def record(make_sample):
    return make_record('city/photo.png', make_sample(), CLASSES, PALETTE)


def test_record_is_read_as_it_was_written(tmp_path, record, make_sample):
    with pytest.raises(FileNotFoundError, match='no records of images in'):
        read_records(tmp_path)
    path = write_record(tmp_path, record)
    assert path == tmp_path / FOLDER / 'city' / 'photo.json'
    assert read_record(path) == record
    stock = make_sample(scales=(), labels=False)
    stock = make_record('city/photo.png', stock, CLASSES)
    write_record(tmp_path, stock)
    assert read_records(tmp_path) == [stock]
    assert 'intersect' not in json.loads(path.read_text())
    # Sorted; the run is none, nor is a part of a process that was killed.
    for name in ('b.png', 'a/c.png', 'run.png'):
        write_record(tmp_path, dataclasses.replace(stock, image=name))
    (tmp_path / FOLDER / 'run.json').write_text('{}')
    (tmp_path / FOLDER / '.d.json.123.part').write_text('{"vers')
    images = [found.image for found in read_records(tmp_path)]
    assert images == ['a/c.png', 'b.png', 'city/photo.png', 'run.png']


def test_pictures_are_written(tmp_path, image):
    flat = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    pictures = {'weight_1': flat, 'prediction': image, 'scale_0.5': image}
    paths = write_pictures(tmp_path, 'city/photo.jpeg', pictures)
    names = ('weight_1.jpg', 'prediction.png', 'scale_0.5.png')
    assert [*paths.values()] == [f'scale_maps/city/photo/{n}' for n in names]
    for key, picture in pictures.items():
        found = cv2.imread(str(tmp_path / paths[key]))[..., ::-1].astype(int)
        atol = 3 if key == 'weight_1' else 0
        np.testing.assert_allclose(found, picture, rtol=0, atol=atol)


@pytest.mark.fault(
    'the disk is full while pictures are written',
    'an error; the old record stays',
)
def test_full_disk_is_an_error(tmp_path, image, record, monkeypatch):
    before = write_record(tmp_path, record).read_bytes()

    def fail(*args):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='No space'):
        write_pictures(tmp_path, 'photo.png', {'input': image})
    with pytest.raises(OSError, match='No space'):
        write_record(tmp_path, dataclasses.replace(record, size=(1, 1)))
    (path,) = tmp_path.rglob('*.*')
    assert path.read_bytes() == before


@pytest.mark.fault(
    'pictures of another run, or image of that name, in one folder',
    'refused, with the path',
)
def test_images_and_runs_do_not_replace_each_other(tmp_path, record):
    write_record(tmp_path, record)
    # It differs by its suffix alone.
    other = dataclasses.replace(record, image='city/photo.jpg')
    with pytest.raises(ValueError, match=r'photo.json is of the image city/p'):
        write_record(tmp_path, other)
    assert read_records(tmp_path) == [record]
    classes = ('road', 'tree', 'sea')
    other = dataclasses.replace(record, image='z.png', classes=classes)
    write_record(tmp_path, other)
    with pytest.raises(ValueError, match=r'z.json has .* different runs'):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('"labelled_weights"', '', 'is damaged'),
        ('"version": 1', '"version": 2', 'not written by this program.*got 2'),
        ('"size"', '"sise"', 'is no record'),
        ('"intersect": [', '"intersect": [1, ', r'intersect has \(4,\), expe'),
        ('"labelled": [', '"labelled": ["x", ', 'labelled has no numbers'),
    ],
)
@pytest.mark.fault(
    'a damaged record of pictures',
    'an error with its path',
)
def test_damaged_and_foreign_files_are_named(
    tmp_path, record, old, new, message
):
    path = write_record(tmp_path, record)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=rf'photo.json.*{message}'):
        read_records(tmp_path)


def test_a_repeated_run_is_the_same_run_and_another_is_refused(tmp_path):
    run = dict(config='a.py', checkpoint='a.pth', scales=[0.5, 1.0], date='x')
    assert read_run(tmp_path) is None
    check_run(tmp_path, run)
    found = {**run, 'metrics': {'mIoU': 3.0}, 'num_images': 2}
    write_run(tmp_path, found)
    assert read_run(tmp_path) == found
    check_run(tmp_path, {**run, 'date': 'y'})
    for key, value in (('checkpoint', 'b.pth'), ('tta', 'T')):
        match = rf'another run \({key}: .*, now '
        with pytest.raises(ValueError, match=match):
            check_run(tmp_path, {**run, key: value})
    (tmp_path / FOLDER / 'run.json').write_text('[1]')
    with pytest.raises(ValueError, match=r'run.json was not written by this'):
        check_run(tmp_path, run)
