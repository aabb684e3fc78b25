"""Data sets of folders: one's own, CamVid, Mapillary Vistas."""

import numpy as np
import pytest
from mmseg.datasets import MapillaryDataset_v1, MapillaryDataset_v2
from mmseg.registry import DATASETS
from PIL import Image

CLASSES = ('road', 'tree', 'sky')


def load(num_classes, kind='LoadSegLabels'):
    extra = dict(num_classes=num_classes) if kind == 'LoadSegLabels' else {}
    return [dict(type=kind, **extra)]


def labels(dataset):
    return dataset[0]['gt_seg_map'].ravel().tolist()


# --- HMSAFolderDataset


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
    dataset = build(root, pipeline=load(3))
    expected = [
        ('images/a.jpg', 'masks/a.png'),
        ('images/b.PNG', 'masks/b.png'),
        ('images/sub/a.jpeg', 'masks/sub/a.png'),
        ('images/sub/deep/c.tif', 'masks/sub/deep/c.png'),
    ]
    assert pairs(dataset, root) == expected
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset.metainfo['palette']) == 3
    assert labels(dataset) == [1] * 24
    # A list, and colours.
    (root / 'val.txt').write_text('sub/a\n\nb.PNG\n')
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    dataset = build(root, ann_file='val.txt', palette=palette)
    assert [pair[0] for pair in pairs(dataset, root)] == [
        *('images/b.PNG', 'images/sub/a.jpeg')
    ]
    assert dataset.metainfo['palette'] == palette


@pytest.mark.parametrize(
    ('file', 'content', 'kwargs', 'message'),
    [
        ('val.txt', '', dict(classes=None), 'classes is missing'),
        ('masks/b.png', None, {}, r'1 of 4 images have no label: .*b\.png'),
        ('images/a.png', '', {}, r"'a.jpg' and 'a.png' .* share one mask"),
        (
            *('val.txt', 'b\nmissing\n', dict(ann_file='val.txt')),
            "1 of 2 images named in ann_file=.*'missing'",
        ),
        ('val.txt', '', dict(img_suffix='.gif'), '0 images with suffix'),
    ],
)
@pytest.mark.fault(
    'a folder with a mask that is missing, or shared by two images',
    'refused, with names and counts: pairs are made by name',
)
@pytest.mark.fault(
    'a list of images that names one that does not exist',
    'refused, with its name',
)
def test_faults_are_named(root, file, content, kwargs, message):
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        build(root, **kwargs)


# --- CamVid


def test_camvid(tmp_path, write_png):
    def build(**kwargs):
        cfg = dict(type='HMSACamVidDataset', data_root=str(tmp_path))
        return DATASETS.build(dict(cfg, pipeline=load(11), **kwargs))

    # All values, 0 to 11.
    write_png(tmp_path / 'val/a.png', np.full((3, 4, 3), 99))
    write_png(tmp_path / 'valannot/a.png', np.arange(12).reshape(3, 4))
    dataset = build(split='val')
    assert len(dataset.metainfo['classes']) == 11
    assert len({tuple(color) for color in dataset.metainfo['palette']}) == 11
    assert labels(dataset) == [*range(11), 255]
    some = build(split='val', metainfo=dict(classes=('road', 'sky')))
    assert labels(some) == [1, 255, 255, 0, *[255] * 8]
    prefix = dict(img_path='val', seg_map_path='valannot')
    assert labels(build(data_prefix=prefix)) == labels(dataset)

    with pytest.raises(ValueError, match=r"split='vall'.*'val'"):
        build(split='vall')
    with pytest.raises(FileNotFoundError, match=r'train.*does not exist'):
        build(split='train')


# --- Mapillary Vistas

VALUES = [0, 1, 64, 65]


@pytest.fixture
def archives(tmp_path):
    """Both releases of the archives, as they unpack."""
    for release, folder in (
        ('old', 'labels'),
        ('new', 'v1.2/labels'),
        ('new', 'v2.0/labels'),
    ):
        for split in ('training', 'validation'):
            root = tmp_path / release / split
            (root / folder).mkdir(parents=True)
            (root / 'images').mkdir(exist_ok=True)
            (root / f'images/{split[0]}.jpg').touch()
            values = [*VALUES, 123] if 'v2.0' in folder else VALUES
            label = Image.fromarray(np.array([values], np.uint8))
            label.save(root / folder / f'{split[0]}.png')
    return tmp_path


def build_mapillary(root, split='training', version='1.2', **kwargs):
    cfg = dict(type='HMSAMapillaryDataset', data_root=str(root))
    return DATASETS.build(dict(cfg, split=split, version=version, **kwargs))


@pytest.mark.parametrize(
    ('root', 'version', 'split', 'folder', 'num_classes'),
    [
        ('old', '1.1', 'training', 'labels', 65),
        ('new', '1.2', 'validation', 'v1.2/labels', 65),
        ('new', 2.0, 'training', 'v2.0/labels', 123),
    ],
)
def test_releases(root, version, split, folder, num_classes, archives):
    """The 65 classes of 1.2 are had from the archive of 2.0 too."""
    dataset = build_mapillary(
        archives / root, split, version, pipeline=load(num_classes)
    )
    info = dataset.get_data_info(0)
    base = f'{archives}/{root}/{split}'
    assert info['seg_map_path'] == f'{base}/{folder}/{split[0]}.png'
    assert info['img_path'] == f'{base}/images/{split[0]}.jpg'
    # The last value is that of unlabelled pixels.
    found = [0, 1, 64, 65, 255] if version == 2 else [0, 1, 64, 255]
    assert labels(dataset) == found
    like = MapillaryDataset_v2 if version == 2 else MapillaryDataset_v1
    classes, palette = like.METAINFO.values()
    assert classes[num_classes:] == ('Unlabeled',)
    assert dataset.metainfo['classes'] == classes[:num_classes]
    assert dataset.metainfo['palette'] == palette[:num_classes]


def test_mapillary_with_mmsegs_loader_and_some_classes(archives):
    root = archives / 'new'
    dataset = build_mapillary(root, pipeline=load(65, 'LoadAnnotations'))
    assert labels(dataset) == [0, 1, 64, 255]
    classes, palette = MapillaryDataset_v2.METAINFO.values()
    dataset = build_mapillary(
        *(root, 'training', '2.0'),
        metainfo=dict(classes=(classes[100], classes[1])),
        pipeline=load(2),
    )
    assert labels(dataset) == [255, 1, *[255] * 3]
    assert dataset.metainfo['palette'] == [palette[100], palette[1]]


def test_arguments_of_mapillary(archives):
    root = archives / 'new'
    prefix = dict(seg_map_path='elsewhere')
    (root / 'training/v2.0/labels').rename(root / 'elsewhere')
    named = build_mapillary(root, version='2.0', data_prefix=prefix)
    info = named.get_data_info(0)
    assert info['img_path'].endswith('training/images/t.jpg')
    assert info['seg_map_path'].endswith('new/elsewhere/t.png')
    for kwargs, message in (
        (dict(version='3.0'), r"version='3\.0'; expected one of \['1\.1'"),
        (dict(scored_at='full'), r"scored_at='full'; expected one of"),
        (dict(split=None), r'neither split nor data_prefix'),
    ):
        with pytest.raises(ValueError, match=message):
            build_mapillary(root, **kwargs)
