import numpy as np
import pytest
from mmseg.datasets import MapillaryDataset_v1
from mmseg.registry import DATASETS
from PIL import Image

V12 = dict(img_path='training/images', seg_map_path='training/v1.2/labels')
V11 = dict(img_path='training/images', seg_map_path='training/labels')
LABEL = np.array([[0, 1, 64, 65]], np.uint8)


@pytest.fixture
def root(tmp_path):
    for folder in {*V12.values(), *V11.values()}:
        (tmp_path / folder).mkdir(parents=True)
    for stem in 'ab':
        (tmp_path / V12['img_path'] / f'{stem}.jpg').touch()
        for prefix in (V12, V11):
            label = Image.fromarray(LABEL)
            label.save(tmp_path / prefix['seg_map_path'] / f'{stem}.png')
    return tmp_path


def build(root, **kwargs):
    kwargs = {'data_prefix': V12, **kwargs}
    return DATASETS.build(
        dict(type='HMSAMapillaryDataset', data_root=str(root), **kwargs)
    )


@pytest.mark.parametrize('loader', ['LoadSegLabels', 'LoadAnnotations'])
@pytest.mark.parametrize('prefix', [V12, V11])
def test_unlabelled_pixels_are_ignored(root, prefix, loader):
    step = dict(type=loader)
    if loader == 'LoadSegLabels':
        step['num_classes'] = 65
    dataset = build(root, data_prefix=prefix, pipeline=[step])
    assert len(dataset) == 2
    assert dataset[0]['gt_seg_map'].ravel().tolist() == [0, 1, 64, 255]


def test_classes(root):
    dataset = build(root)
    classes, palette = MapillaryDataset_v1.METAINFO.values()
    assert classes[65] == 'Unlabeled'
    assert dataset.metainfo['classes'] == classes[:65]
    assert dataset.metainfo['palette'] == palette[:65]


def test_other_classes(root):
    dataset = build(root, metainfo=dict(classes=('Car', 'Bird')))
    assert dataset.metainfo['classes'] == ('Car', 'Bird')
    label_map = dataset[0]['label_map']
    car = MapillaryDataset_v1.METAINFO['classes'].index('Car')
    assert (label_map[car], label_map[0], label_map[65]) == (0, 1, 255)


def test_missing_folder(root):
    prefix = {**V12, 'seg_map_path': 'training/v2.0/labels'}
    message = r'data_prefix\.seg_map_path: .*v2\.0/labels'
    with pytest.raises(FileNotFoundError, match=message):
        build(root, data_prefix=prefix)


def test_image_without_label(root):
    (root / V12['seg_map_path'] / 'b.png').unlink()
    message = r"1 of 2 images have no label: '.*b\.png'"
    with pytest.raises(FileNotFoundError, match=message):
        build(root)
