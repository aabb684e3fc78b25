"""`HMSACamVidDataset`: the splits of SegNet's files, and their void."""

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=11),
]


@pytest.fixture
def root(tmp_path):
    """A validation split of one image with all values, 0 to 11."""
    for folder in ('val', 'valannot'):
        (tmp_path / folder).mkdir()
    image = np.full((3, 4, 3), 99, np.uint8)
    Image.fromarray(image).save(tmp_path / 'val' / 'a.png')
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(label).save(tmp_path / 'valannot' / 'a.png')
    return tmp_path


def build(root, **kwargs):
    cfg = dict(type='HMSACamVidDataset', data_root=str(root))
    return DATASETS.build(dict(cfg, pipeline=PIPELINE, **kwargs))


def test_void_is_ignored(root):
    dataset = build(root, split='val')
    assert len(dataset.metainfo['classes']) == 11
    assert len({tuple(color) for color in dataset.metainfo['palette']}) == 11
    expected = [*range(11), 255]
    assert dataset[0]['gt_seg_map'].ravel().tolist() == expected


def test_a_subset_of_the_classes(root):
    dataset = build(root, split='val', metainfo=dict(classes=('road', 'sky')))
    expected = [1, 255, 255, 0, *[255] * 8]
    assert dataset[0]['gt_seg_map'].ravel().tolist() == expected


def test_folders_instead_of_a_split(root):
    prefix = dict(img_path='val', seg_map_path='valannot')
    assert len(build(root, data_prefix=prefix)) == 1


def test_faults_are_named(root):
    with pytest.raises(ValueError, match=r"split='vall'.*'val'"):
        build(root, split='vall')
    with pytest.raises(FileNotFoundError, match=r'train.*does not exist'):
        build(root, split='train')
    (root / 'valannot' / 'a.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 1 images have no label'):
        build(root, split='val')
