"""`HMSAFolderDataset`: two folders, matched by name."""

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

CLASSES = ('road', 'tree', 'sky')


@pytest.fixture
def root(tmp_path):
    """Images of several suffixes, in sub-folders, with masks."""
    for name in ('a.jpg', 'b.PNG', 'sub/a.jpeg', 'sub/deep/c.tif'):
        image = tmp_path / 'images' / name
        mask = (tmp_path / 'masks' / name).with_suffix('.png')
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), 99, np.uint8)).save(image)
        Image.fromarray(np.full((4, 6), 1, np.uint8)).save(mask)
    (tmp_path / 'images' / 'notes.txt').write_text('no image')
    return tmp_path


def build(root, **kwargs):
    cfg = dict(type='HMSAFolderDataset', data_root=str(root), pipeline=[])
    return DATASETS.build(dict(cfg, **{'classes': CLASSES, **kwargs}))


def pairs(dataset, root):
    return [
        tuple(
            info[key].replace(str(root) + '/', '')
            for key in ('img_path', 'seg_map_path')
        )
        for info in map(dataset.get_data_info, range(len(dataset)))
    ]


def test_images_and_masks_are_matched_by_name(root):
    dataset = build(root)
    assert pairs(dataset, root) == [
        ('images/a.jpg', 'masks/a.png'),
        ('images/b.PNG', 'masks/b.png'),
        ('images/sub/a.jpeg', 'masks/sub/a.png'),
        ('images/sub/deep/c.tif', 'masks/sub/deep/c.png'),
    ]
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset.metainfo['palette']) == 3


def test_a_removed_image_shifts_nothing(root):
    (root / 'images' / 'a.jpg').unlink()
    assert pairs(build(root), root)[0] == ('images/b.PNG', 'masks/b.png')


def test_a_palette_and_a_list(root):
    (root / 'val.txt').write_text('sub/a\n\nb.PNG\n')
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    dataset = build(root, ann_file='val.txt', palette=palette)
    assert [pair[0] for pair in pairs(dataset, root)] == [
        'images/b.PNG',
        'images/sub/a.jpeg',
    ]
    assert dataset.metainfo['palette'] == palette


def test_labels_are_read(root):
    dataset = build(
        root,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadSegLabels', num_classes=3),
        ],
    )
    sample = dataset[3]
    assert sample['img'].shape == (4, 6, 3)
    assert (sample['gt_seg_map'] == 1).all()


@pytest.mark.parametrize(
    ('break_it', 'kwargs', 'error', 'message'),
    [
        (None, dict(classes=None), ValueError, 'classes is missing'),
        (
            lambda root: (root / 'masks/b.png').unlink(),
            dict(),
            FileNotFoundError,
            r'1 of 4 images have no label: .*b\.png',
        ),
        (
            lambda root: (root / 'images/a.png').write_bytes(b''),
            dict(),
            ValueError,
            r"'a.jpg' and 'a.png' .* share one mask",
        ),
        (
            lambda root: (root / 'val.txt').write_text('b\nmissing\n'),
            dict(ann_file='val.txt'),
            FileNotFoundError,
            "1 of 2 images named in ann_file=.*'missing'",
        ),
        (
            None,
            dict(data_prefix=dict(img_path='pictures')),
            FileNotFoundError,
            r"data_prefix.img_path: .*pictures' does not exist",
        ),
        (None, dict(img_suffix='.gif'), ValueError, '0 images with suffix'),
    ],
)
def test_what_is_wrong_is_said(root, break_it, kwargs, error, message):
    if break_it is not None:
        break_it(root)
    with pytest.raises(error, match=message):
        build(root, **kwargs)
