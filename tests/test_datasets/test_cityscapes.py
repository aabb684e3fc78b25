"""Cityscapes, fine and coarse: splits, formats and missing files."""

import shutil

import numpy as np
import pytest
from mmengine import fileio
from mmengine.dataset import ConcatDataset
from mmengine.fileio import LocalBackend, backends
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from hmsa_mmseg.datasets.cityscapes import TRAIN_CITIES, VAL_CITIES

PREFIX = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
ALL = dict(img_path='leftImg8bit', seg_map_path='gtFine')
STEMS = ['aachen/aachen_000001', 'aachen/aachen_000002', 'ulm/ulm_000003']
IMG_SUFFIX = '_leftImg8bit.png'
SEG_SUFFIX = '_gtFine_labelTrainIds.png'
IDS_SUFFIX = '_gtFine_labelIds.png'
DAMAGED = 'troisdorf/troisdorf_000000_000073'


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def root(tmp_path):
    """A data set of empty files: the checks must not open any of them."""
    for stem in STEMS:
        touch(tmp_path / PREFIX['img_path'] / (stem + IMG_SUFFIX))
        touch(tmp_path / PREFIX['seg_map_path'] / (stem + SEG_SUFFIX))
    return tmp_path


def build(root, **kwargs):
    kwargs = {'data_prefix': PREFIX, **kwargs}
    return DATASETS.build(
        dict(type='HMSACityscapesDataset', data_root=str(root), **kwargs)
    )


# --- lists and checks, which other data sets share


def test_lists_the_same_as_mmseg(root):
    (root / 'two.txt').write_text(f'{STEMS[2]}\n{STEMS[0]}\n')
    for kwargs in ({}, dict(lazy_init=True, ann_file='two.txt')):
        ours = build(root, **kwargs)
        theirs = CityscapesDataset(
            data_root=str(root), data_prefix=PREFIX, **kwargs
        )
        assert [*ours] == [*theirs]
        assert len(ours) == (2 if kwargs else 3)
        assert ours.metainfo == theirs.metainfo


def test_image_lists_that_point_elsewhere(root):
    (root / 'up.txt').write_text(f'../train/{STEMS[0]}\n')
    assert len(build(root, ann_file='up.txt')) == 1
    stem = root / PREFIX['img_path'] / STEMS[0]
    (root / 'whole.txt').write_text(f'{stem}\n')
    dataset = DATASETS.build(
        dict(
            type='HMSACityscapesDataset',
            ann_file=str(root / 'whole.txt'),
            data_prefix=dict(img_path=''),
        )
    )
    assert dataset[0]['img_path'] == f'{stem}{IMG_SUFFIX}'


def nothing(root):
    pass


def remove_images(root):
    shutil.rmtree(root / PREFIX['img_path'])
    (root / PREFIX['img_path']).mkdir()


def remove_labels(root):
    for stem in STEMS[1:]:
        (root / PREFIX['seg_map_path'] / (stem + SEG_SUFFIX)).unlink()


def write_list(*lines):
    return lambda root: (root / 'list.txt').write_text('\n'.join(lines))


@pytest.mark.parametrize(
    ('change', 'kwargs', 'match'),
    [
        (nothing, dict(data_root='nowhere'), r"^data_root='nowhere'"),
        (nothing, dict(img='none'), r"data_prefix\.img_path: '.*/none' does"),
        (nothing, dict(seg='none'), r'data_prefix\.seg_map_path: '),
        # Does not blame data_root.
        (
            nothing,
            dict(data_root='no', img='/none'),
            r'^data_prefix\.img_path',
        ),
        (nothing, dict(ann_file='no.txt'), r"ann_file='.*/no\.txt'"),
        (write_list(), dict(ann_file='list.txt'), '0 images listed in ann_fi'),
        (
            write_list(STEMS[0], 'ulm/ulm_9'),
            dict(ann_file='list.txt'),
            r'1 of 2 images named in ann_file=.*ulm_9_leftImg8bit\.png',
        ),
        (
            remove_images,
            {},
            r"0 images with suffix '_leftImg8bit\.png'.*no file",
        ),
        (nothing, dict(img_suffix='.jpg'), r"found '(aachen|ulm)/"),
        (
            remove_labels,
            {},
            '2 of 3 images have no label.*aachen_000002_gtFine.*ulm_000003',
        ),
    ],
)
@pytest.mark.fault(
    'a folder of a data set does not exist, or has no images',
    'refused, with path, suffix and what was found',
)
@pytest.mark.fault(
    'labels of a data set are missing',
    'refused when it is built, with counts and paths',
)
def test_faults_are_named(root, change, kwargs, match):
    change(root)
    kwargs = {'data_root': str(root), **kwargs}
    prefix = dict(
        img_path=kwargs.pop('img', PREFIX['img_path']),
        seg_map_path=kwargs.pop('seg', PREFIX['seg_map_path']),
    )
    cfg = dict(type='HMSACityscapesDataset', data_prefix=prefix, **kwargs)
    with pytest.raises((FileNotFoundError, ValueError), match=match):
        DATASETS.build(cfg)


def test_predicting_needs_no_labels(root):
    remove_labels(root)
    assert len(build(root, test_mode=True)) == 3
    prefix = {**PREFIX, 'seg_map_path': 'none'}
    assert len(build(root, data_prefix=prefix, test_mode=True)) == 3


class _RemoteBackend(LocalBackend):
    """A store whose paths, 'remote/...', do not exist on this machine."""

    def __init__(self, root):
        self.root = root

    def _local(self, path):
        assert str(path).startswith('remote')
        return str(path).replace('remote', self.root, 1)

    def isdir(self, path):
        return super().isdir(self._local(path))

    def exists(self, path):
        return super().exists(self._local(path))

    def list_dir_or_file(self, path, *args):
        return super().list_dir_or_file(self._local(path), *args)


def test_other_back_end(root, monkeypatch):
    # register_backend has no counterpart that takes a back end out again.
    monkeypatch.setitem(backends.backends, 'remote', _RemoteBackend)
    args = dict(backend='remote', root=str(root))
    dataset = build('remote', backend_args=args)
    folder = f'remote/{PREFIX["img_path"]}'
    assert dataset[0]['img_path'] == f'{folder}/{STEMS[0]}{IMG_SUFFIX}'
    (root / PREFIX['seg_map_path'] / (STEMS[1] + SEG_SUFFIX)).unlink()
    with pytest.raises(FileNotFoundError, match='1 of 3 images have no label'):
        build('remote', backend_args=args)
    prefix = dict(img_path='none')
    with pytest.raises(FileNotFoundError, match=r'data_prefix\.img_path'):
        build('remote', data_prefix=prefix, backend_args=args)


def test_back_end_that_cannot_list_is_left_unchecked(root):
    url = 'http://127.0.0.1/images'
    assert not hasattr(fileio.get_file_backend(url), 'list_dir_or_file')
    (root / 'names.txt').write_text('a\nb\n')
    prefix = dict(img_path=url, seg_map_path=url)
    dataset = build(root, ann_file='names.txt', data_prefix=prefix)
    assert [dataset[i]['img_path'] for i in range(2)] == [
        f'{url}/{name}{IMG_SUFFIX}' for name in 'ab'
    ]


# --- splits and chosen cities


@pytest.fixture
def cities(tmp_path):
    """All 21 cities, with one image each and Ulm with two."""
    stems = [f'train/{city}/{city}_0' for city in TRAIN_CITIES]
    stems += [f'val/{city}/{city}_0' for city in VAL_CITIES]
    for stem in (*stems, 'train/ulm/ulm_1'):
        touch(tmp_path / 'leftImg8bit' / (stem + IMG_SUFFIX))
        for suffix in (SEG_SUFFIX, IDS_SUFFIX):
            touch(tmp_path / 'gtFine' / (stem + suffix))
    # Images without label, as in the folders test and train_extra.
    touch(tmp_path / 'leftImg8bit/test/berlin' / ('berlin_0' + IMG_SUFFIX))
    return tmp_path


def test_chosen_cities(cities, logged):
    dataset = build(cities, cities=['ulm', 'lindau'], data_prefix=ALL)
    assert folders(dataset) == ['train/ulm', 'val/lindau']
    assert len(dataset) == 3
    assert '3 images of 2 cities: lindau (1), ulm (2)' in logged('INFO')
    # Labels of others may lack.
    (cities / f'gtFine/train/ulm/ulm_0{SEG_SUFFIX}').unlink()
    assert len(build(cities, cities=['lindau'], data_prefix=ALL)) == 1
    with pytest.raises(FileNotFoundError, match='1 of 2 images have no label'):
        build(cities, cities=['ulm'], data_prefix=ALL)


def folders(dataset):
    paths = [dataset[i]['img_path'] for i in range(len(dataset))]
    return sorted({'/'.join(path.split('/')[-3:-1]) for path in paths})


def test_splits_are_the_authors(cities):
    expected = [
        ['val/frankfurt', 'val/lindau', 'val/munster'],
        ['train/darmstadt', 'train/dusseldorf', 'train/erfurt'],
        ['train/monchengladbach', 'train/strasbourg', 'train/stuttgart'],
    ]
    for cv in range(3):
        val = build(cities, cv=cv, split='val', data_prefix=ALL)
        train = build(cities, cv=cv, data_prefix=ALL)
        assert folders(val) == expected[cv]
        assert len(train) + len(val) == 22
        assert {*folders(train)}.isdisjoint(expected[cv])
        assert len(folders(train)) == 18
    official = build(cities)
    assert [*build(cities, cv=0, data_prefix=ALL)] == [*official]
    for split in ('train', 'val'):
        assert len(build(cities, cv=3, split=split, data_prefix=ALL)) == 22


@pytest.mark.parametrize(
    ('kwargs', 'match'),
    [
        (
            dict(cities=['ulm', 'bonn', 'paris']),
            r"no image of bonn, paris under '.*leftImg8bit'.*3 cities",
        ),
        (
            dict(cv=0, split='val', data_prefix=PREFIX),
            'no image of frankfurt, lindau, munster.*which hold train and',
        ),
        (dict(cv=4), 'cv=4; expected 0, 1, 2, 3 or None'),
        (dict(cv=1, split='test'), "split='test'; expected"),
        (dict(cv=1, cities=['ulm']), r'both cv=1 and cities=\['),
        (dict(label_format='ids'), "label_format='ids'; expected"),
        (
            dict(label_format='labelIds', seg_map_suffix=SEG_SUFFIX),
            'names files of trainIds',
        ),
    ],
)
def test_bad_arguments(cities, kwargs, match):
    with pytest.raises((FileNotFoundError, ValueError), match=match):
        build(cities, **{'data_prefix': ALL, **kwargs})


def test_label_ids_give_the_train_ids(cities, write_png):
    ids = np.arange(34)[None]
    write_png(cities / f'gtFine/val/lindau/lindau_0{IDS_SUFFIX}', ids)
    kwargs = dict(
        cities=['lindau'],
        pipeline=[dict(type='LoadSegLabels', num_classes=19)],
        data_prefix=ALL,
    )
    dataset = build(cities, label_format='labelIds', **kwargs)
    found = dataset[0]['gt_seg_map'][0].tolist()
    # labels.py of cityscapesScripts: the evaluated ids, in this order.
    evaluated = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert [i for i in range(34) if found[i] != 255] == evaluated
    assert [found[i] for i in evaluated] == list(range(19))
    assert dataset.metainfo == build(cities, **kwargs).metainfo
    kwargs.update(cities=None, cv=3, metainfo=dict(classes=('road', 'car')))
    some = build(cities, label_format='labelIds', **kwargs)
    label_map = some.get_data_info(0)['label_map']
    # Ids of road, sidewalk and car.
    assert (label_map[7], label_map[8], label_map[26]) == (0, 255, 1)
    assert {*label_map.values()} == {0, 1, 255}


# --- coarse labels


def build_coarse(root, **kwargs):
    cfg = dict(type='CityscapesCoarseDataset', data_root=str(root))
    return DATASETS.build({**cfg, **kwargs})


def names(dataset):
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    return [path.split('/')[-1].removesuffix(IMG_SUFFIX) for path in paths]


@pytest.fixture
def coarse(tmp_path, write_png):
    for stem in ('augsburg/augsburg_1', 'konz/konz_2', DAMAGED):
        image = tmp_path / f'leftImg8bit/train_extra/{stem}{IMG_SUFFIX}'
        write_png(image, np.zeros((2, 4, 3)))
        for kind, value in (('labelIds', 26), ('labelTrainIds', 13)):
            label = f'gtCoarse/train_extra/{stem}_gtCoarse_{kind}.png'
            write_png(tmp_path / label, np.full((2, 4), value))
    return tmp_path


def test_skip_list(coarse, logged):
    assert names(build_coarse(coarse)) == ['augsburg_1', 'konz_2']
    every = names(build_coarse(coarse, skip_list=()))
    assert every == ['augsburg_1', 'konz_2', 'troisdorf_000000_000073']
    # Whole names only.
    skipped = [f'konz/konz_2{IMG_SUFFIX}', f'g_1{IMG_SUFFIX}']
    dataset = build_coarse(coarse, skip_list=skipped)
    assert names(dataset) == [every[0], every[2]]
    assert '1 of 3 images are named in skip_list' in logged('INFO')[-1]
    everything = [f'{name}{IMG_SUFFIX}' for name in every]
    with pytest.raises(ValueError, match='no image is left: 3 of 3'):
        build_coarse(coarse, skip_list=everything)
    with pytest.raises(ValueError, match='expected a list'):
        build_coarse(coarse, skip_list=everything[0])
    with pytest.raises(ValueError, match="missing='skip'"):
        build_coarse(coarse, missing='skip')
    assert names(build_coarse(coarse, cities=['konz'])) == ['konz_2']


@pytest.mark.fault(
    'coarse images without label, the first of all',
    "refused, or left out with missing='drop'; no pair is shifted",
)
def test_coarse_images_without_label(coarse, logged):
    # The first in order: pairing by order would shift all others.
    folder = coarse / 'gtCoarse/train_extra'
    (folder / 'augsburg/augsburg_1_gtCoarse_labelIds.png').unlink()
    match = r"1 of 2 images have no label: .*augsburg_1_gtCoarse.*'drop'"
    with pytest.raises(FileNotFoundError, match=match):
        build_coarse(coarse)
    dataset = build_coarse(coarse, missing='drop')
    assert names(dataset) == ['konz_2']
    assert 'konz_2_gtCoarse' in dataset.get_data_info(0)['seg_map_path']
    assert '1 of 2 images have no label' in logged('INFO')[-1]
    shutil.rmtree(folder / 'konz')
    with pytest.raises(ValueError, match='no image is left: 2 of 2 images'):
        build_coarse(coarse, missing='drop')
    assert len(build_coarse(coarse, test_mode=True)) == 2


@pytest.mark.parametrize('classes', [None, ('car', 'road')])
def test_coarse_beside_the_fine_part(coarse, write_png, classes):
    image = coarse / f'leftImg8bit/val/ulm/ulm_3{IMG_SUFFIX}'
    write_png(image, np.zeros((2, 4, 3)))
    label = coarse / f'gtFine/val/ulm/ulm_3{SEG_SUFFIX}'
    write_png(label, np.full((2, 4), 13))
    options = dict(
        pipeline=[dict(type='LoadSegLabels', num_classes=19)],
        metainfo=classes and dict(classes=classes),
    )
    prefix = dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val')
    parts = [build(coarse, data_prefix=prefix, **options)]
    for label_format in ('labelIds', 'trainIds'):
        options['label_format'] = label_format
        parts.append(build_coarse(coarse, **options))
    both = ConcatDataset(parts)
    car = 0 if classes else 13
    assert all((both[i]['gt_seg_map'] == car).all() for i in range(5))
