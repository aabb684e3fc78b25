"""Cross-validation splits, chosen cities and label formats of Cityscapes."""

import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmseg.registry import DATASETS
from PIL import Image

from hmsa_mmseg.datasets.cityscapes import (
    ID_TO_TRAIN_ID,
    TRAIN_CITIES,
    VAL_CITIES,
    cities_of_split,
)

PREFIX = dict(img_path='leftImg8bit', seg_map_path='gtFine')
SUFFIXES = ('_gtFine_labelTrainIds.png', '_gtFine_labelIds.png')


def make_city(root, folder, city, count=1):
    for i in range(count):
        stem = f'{folder}/{city}/{city}_{i:06d}'
        names = [f'leftImg8bit/{stem}_leftImg8bit.png']
        names += [f'gtFine/{stem}{suffix}' for suffix in SUFFIXES]
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.fixture
def root(tmp_path):
    """All 21 cities, with one image each and Ulm with two."""
    for city in TRAIN_CITIES:
        make_city(tmp_path, 'train', city, count=2 if city == 'ulm' else 1)
    for city in VAL_CITIES:
        make_city(tmp_path, 'val', city)
    # Images without label, as in the folders test and train_extra.
    path = tmp_path / 'leftImg8bit/test/berlin/berlin_0_leftImg8bit.png'
    path.parent.mkdir(parents=True)
    path.touch()
    return tmp_path


def build(root, **kwargs):
    kwargs = {'data_prefix': PREFIX, **kwargs}
    return DATASETS.build(
        dict(type='HMSACityscapesDataset', data_root=str(root), **kwargs)
    )


def folders(dataset):
    paths = [dataset[i]['img_path'] for i in range(len(dataset))]
    return sorted({'/'.join(path.split('/')[-3:-1]) for path in paths})


@pytest.mark.parametrize(
    ('cv', 'expected'),
    [
        (0, ['val/frankfurt', 'val/lindau', 'val/munster']),
        (1, ['train/darmstadt', 'train/dusseldorf', 'train/erfurt']),
        (2, ['train/monchengladbach', 'train/strasbourg', 'train/stuttgart']),
    ],
)
def test_splits_are_the_authors(root, cv, expected):
    val = build(root, cv=cv, split='val')
    train = build(root, cv=cv, split='train')
    assert folders(val) == expected
    assert len(train) + len(val) == 22
    assert set(folders(train)).isdisjoint(expected)
    assert len(folders(train)) == 18


def test_split_3_is_all_cities_in_both_parts(root):
    for split in ('train', 'val'):
        assert len(build(root, cv=3, split=split)) == 22


def test_split_0_is_the_official_one(root):
    official = build(
        root,
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'
        ),
    )
    train = build(root, cv=0)
    assert len(train) == len(official) == 19
    for i in range(19):
        assert train.get_data_info(i) == official.get_data_info(i)


def test_cities_of_split_by_the_authors_window():
    cities = [*VAL_CITIES, *sorted(TRAIN_CITIES)]
    for cv in range(3):
        window = cities[7 * cv : 7 * cv + 3]
        assert list(cities_of_split(cv, 'val')) == window
        rest = [city for city in cities if city not in window]
        assert list(cities_of_split(cv, 'train')) == rest


def test_chosen_cities(root):
    dataset = build(root, cities=['ulm', 'lindau'])
    assert folders(dataset) == ['train/ulm', 'val/lindau']
    assert len(dataset) == 3


def test_cities_are_logged(root):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_instance('splits', log_level='INFO')
    logger.addHandler(handler)
    build(root, cities=['ulm', 'lindau'])
    assert '3 images of 2 cities: lindau (1), ulm (2)' in lines


@pytest.mark.parametrize('lazy_init', [False, True])
def test_missing_city(root, lazy_init):
    message = r"no image of bonn, paris under '.*leftImg8bit'.*3 cities"
    with pytest.raises(FileNotFoundError, match=message):
        build(
            root, cities=['ulm', 'bonn', 'paris'], lazy_init=lazy_init
        ).full_init()


def test_split_with_the_folder_of_one_part(root):
    prefix = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
    message = 'no image of frankfurt, lindau, munster.*which hold train and'
    with pytest.raises(FileNotFoundError, match=message):
        build(root, cv=0, split='val', data_prefix=prefix)


def test_chosen_cities_need_their_labels(root):
    stem = root / f'gtFine/train/ulm/ulm_000000{SUFFIXES[0]}'
    stem.unlink()
    assert len(build(root, cities=['lindau'])) == 1
    with pytest.raises(FileNotFoundError, match='1 of 2 images have no label'):
        build(root, cities=['ulm'])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(cv=4), 'cv=4; expected 0, 1, 2, 3 or None'),
        (dict(cv=1, split='test'), "split='test'; expected 'train' or 'val'"),
        (dict(cv=1, cities=['ulm']), r"both cv=1 and cities=\['ulm'\]"),
        (dict(label_format='ids'), "label_format='ids'; expected 'trainIds'"),
        (
            dict(label_format='labelIds', seg_map_suffix=SUFFIXES[0]),
            "label_format='labelIds', but seg_map_suffix='_gtFine_labelT",
        ),
        (
            dict(label_format='trainIds', seg_map_suffix=SUFFIXES[1]),
            r"'_gtFine_labelIds\.png' names files of labelIds",
        ),
    ],
)
def test_bad_arguments(root, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(root, **kwargs)


def test_label_ids_give_the_train_ids(root):
    pipeline = [dict(type='LoadSegLabels', num_classes=19)]
    ids = np.arange(34, dtype=np.uint8)[None]
    name = root / 'gtFine/val/lindau/lindau_000000'
    Image.fromarray(ids).save(f'{name}{SUFFIXES[1]}')
    kwargs = dict(cities=['lindau'], pipeline=pipeline)
    dataset = build(root, label_format='labelIds', **kwargs)
    found = dataset[0]['gt_seg_map'][0].tolist()
    # labels.py of cityscapesScripts: the evaluated ids, in this order.
    evaluated = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert [i for i in range(34) if found[i] != 255] == evaluated
    assert [found[i] for i in evaluated] == list(range(19))
    assert dataset.metainfo == build(root, **kwargs).metainfo


def test_label_ids_with_a_subset_of_classes(root):
    classes = ('road', 'car')
    dataset = build(
        root, cv=3, label_format='labelIds', metainfo=dict(classes=classes)
    )
    label_map = dataset[0]['label_map']
    # Ids of road, sidewalk and car.
    assert (label_map[7], label_map[8], label_map[26]) == (0, 255, 1)
    assert {*label_map.values()} == {0, 1, 255}


def test_every_id_has_a_train_id():
    assert sorted(ID_TO_TRAIN_ID) == list(range(34))
    trained = [v for v in ID_TO_TRAIN_ID.values() if v != 255]
    assert sorted(trained) == list(range(19))
