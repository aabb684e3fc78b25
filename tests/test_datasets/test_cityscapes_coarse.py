import shutil

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
from mmseg.registry import DATASETS

DAMAGED = 'troisdorf/troisdorf_000000_000073'
LAYOUTS = [
    ('leftImg8bit', 'gtCoarse'),
    ('leftImg8bit_trainextra/leftImg8bit', 'gtCoarse/gtCoarse'),
]


def build(root, **kwargs):
    cfg = dict(type='CityscapesCoarseDataset', data_root=str(root))
    return DATASETS.build({**cfg, **kwargs})


def write(root, stem, write_png, images='leftImg8bit', labels='gtCoarse'):
    for split in ('train_extra', 'train'):
        write_png(
            root / images / split / f'{stem}_leftImg8bit.png',
            np.zeros((2, 4, 3)),
        )
        for kind, value in (('labelIds', 26), ('labelTrainIds', 13)):
            write_png(
                root / labels / split / f'{stem}_gtCoarse_{kind}.png',
                np.full((2, 4), value),
            )


@pytest.fixture
def root(tmp_path, write_png):
    for stem in ('augsburg/augsburg_1', 'konz/konz_2', DAMAGED):
        write(tmp_path, stem, write_png)
    return tmp_path


def names(dataset):
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    return [path.split('/')[-1][: -len('_leftImg8bit.png')] for path in paths]


@pytest.mark.parametrize('split', ['train_extra', 'train'])
@pytest.mark.parametrize(('images', 'labels'), LAYOUTS)
@pytest.mark.parametrize('label_format', ['labelIds', 'trainIds'])
def test_layouts(tmp_path, write_png, split, images, labels, label_format):
    write(tmp_path, 'konz/konz_2', write_png, images, labels)
    prefix = dict(
        img_path=f'{images}/{split}', seg_map_path=f'{labels}/{split}'
    )
    dataset = build(
        tmp_path,
        data_prefix=prefix,
        label_format=label_format,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadSegLabels', num_classes=19),
        ],
    )
    assert names(dataset) == ['konz_2']
    assert (dataset[0]['gt_seg_map'] == 13).all()
    kind = 'labelIds' if label_format == 'labelIds' else 'labelTrainIds'
    assert dataset[0]['seg_map_path'].endswith(f'konz_2_gtCoarse_{kind}.png')


def test_the_damaged_image_is_left_out(root):
    dataset = build(root)
    assert names(dataset) == ['augsburg_1', 'konz_2']
    assert names(build(root, skip_list=())) == [
        *('augsburg_1', 'konz_2', 'troisdorf_000000_000073')
    ]


def test_skip_list(root, capture_info):
    dataset = build(
        root,
        skip_list=['konz/konz_2_leftImg8bit.png', 'g_1_leftImg8bit.png'],
    )
    # Whole names only.
    assert names(dataset) == ['augsburg_1', 'troisdorf_000000_000073']
    (line,) = capture_info()
    assert '1 of 3 images are named in skip_list' in line
    assert 'konz_2_leftImg8bit.png' in line
    everything = [f'{name}_leftImg8bit.png' for name in names(dataset)]
    everything.append('konz_2_leftImg8bit.png')
    with pytest.raises(ValueError, match='no image is left: 3 of 3'):
        build(root, skip_list=everything)
    with pytest.raises(ValueError, match='expected a list'):
        build(root, skip_list='konz_2_leftImg8bit.png')


def test_cities(root):
    assert names(build(root, cities=['konz'])) == ['konz_2']
    with pytest.raises(FileNotFoundError, match='no image of ulm'):
        build(root, cities=['konz', 'ulm'])


@pytest.mark.parametrize('lazy_init', [False, True])
def test_images_without_label(root, lazy_init, capture_info):
    # The first in order: pairing by order would shift all others.
    (
        root / 'gtCoarse/train_extra/augsburg/augsburg_1_gtCoarse_labelIds.png'
    ).unlink()
    match = r"1 of 2 images have no label: .*augsburg_1_gtCoarse.*'drop'"
    with pytest.raises(FileNotFoundError, match=match):
        build(root)
    dataset = build(root, missing='drop', lazy_init=lazy_init)
    dataset.full_init()
    assert names(dataset) == ['konz_2']
    assert 'konz_2_gtCoarse' in dataset.get_data_info(0)['seg_map_path']
    assert '1 of 2 images have no label' in capture_info()[-1]

    shutil.rmtree(root / 'gtCoarse/train_extra/konz')
    with pytest.raises(ValueError, match='no image is left: 2 of 2 images'):
        build(root, missing='drop')
    # Predicting needs none.
    assert len(build(root, test_mode=True)) == 2


def test_options(root):
    with pytest.raises(ValueError, match="missing='skip'"):
        build(root, missing='skip')
    with pytest.raises(ValueError, match="label_format='ids'"):
        build(root, label_format='ids')
    with pytest.raises(ValueError, match='names files of trainIds'):
        build(root, seg_map_suffix='_gtCoarse_labelTrainIds.png')


def test_no_images(tmp_path):
    for folder in ('leftImg8bit/train_extra', 'gtCoarse/train_extra'):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match='0 images with suffix'):
        build(tmp_path)


@pytest.mark.parametrize('classes', [None, ('car', 'road')])
def test_concatenates_with_the_fine_part(root, write_png, classes):
    fine = 'ulm/ulm_3'
    write_png(
        root / f'leftImg8bit/val/{fine}_leftImg8bit.png', np.zeros((2, 4, 3))
    )
    write_png(
        root / f'gtFine/val/{fine}_gtFine_labelTrainIds.png',
        np.full((2, 4), 13),
    )
    options = dict(
        pipeline=[dict(type='LoadSegLabels', num_classes=19)],
        metainfo=classes and dict(classes=classes),
    )
    both = ConcatDataset(
        [
            DATASETS.build(
                dict(
                    type='HMSACityscapesDataset',
                    data_root=str(root),
                    data_prefix=dict(
                        img_path='leftImg8bit/val', seg_map_path='gtFine/val'
                    ),
                    **options,
                )
            ),
            build(root, **options),
        ]
    )
    assert len(both) == 3
    car = 0 if classes else 13
    assert all((both[i]['gt_seg_map'] == car).all() for i in range(3))
