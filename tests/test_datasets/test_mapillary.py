import numpy as np
import pytest
from mmseg.datasets import MapillaryDataset_v1, MapillaryDataset_v2
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


def build(root, split=None, version='1.2', **kwargs):
    kwargs.update(split=split, version=version)
    if split is None:
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
            values = [[0, 1, 64, 65, 123]] if 'v2.0' in folder else LABEL
            label = Image.fromarray(np.array(values, np.uint8))
            label.save(root / folder / f'{split[0]}.png')
    return tmp_path


@pytest.mark.parametrize('split', ['training', 'validation'])
@pytest.mark.parametrize(
    ('root', 'version', 'folder', 'num_classes'),
    [
        ('old', '1.1', 'labels', 65),
        ('new', '1.2', 'v1.2/labels', 65),
        ('new', 2.0, 'v2.0/labels', 123),
    ],
)
def test_releases(root, version, folder, num_classes, split, archives):
    """The 65 classes of 1.2 are had from the archive of 2.0 too."""
    steps = [dict(type='LoadSegLabels', num_classes=num_classes)]
    dataset = build(archives / root, split, version, pipeline=steps)
    assert len(dataset) == 1
    info = dataset.get_data_info(0)
    path = f'{archives}/{root}/{split}/{folder}/{split[0]}.png'
    assert info['seg_map_path'] == path
    assert info['img_path'] == f'{archives}/{root}/{split}/images/' + (
        f'{split[0]}.jpg'
    )
    found = dataset[0]['gt_seg_map'].ravel().tolist()
    assert found == ([0, 1, 64, 65, 255] if version == 2 else [0, 1, 64, 255])
    like = MapillaryDataset_v2 if version == 2 else MapillaryDataset_v1
    classes, palette = like.METAINFO.values()
    assert classes[num_classes:] == ('Unlabeled',)
    assert dataset.metainfo['classes'] == classes[:num_classes]
    assert dataset.metainfo['palette'] == palette[:num_classes]
    assert dataset.METAINFO['classes'] == classes


def test_some_classes_of_2_0(archives):
    classes = MapillaryDataset_v2.METAINFO['classes']
    chosen = (classes[100], classes[1])
    dataset = build(
        *(archives / 'new', 'training', '2.0'),
        metainfo=dict(classes=chosen),
        pipeline=[dict(type='LoadSegLabels', num_classes=2)],
    )
    assert dataset[0]['gt_seg_map'].ravel().tolist() == [255, 1, *[255] * 3]
    palette = MapillaryDataset_v2.METAINFO['palette']
    assert dataset.metainfo['palette'] == [palette[100], palette[1]]


def test_folders_that_are_named_win(archives):
    prefix = dict(img_path='validation/images', seg_map_path='elsewhere')
    (archives / 'new/validation/v2.0/labels').rename(
        archives / 'new/elsewhere'
    )
    named = build(
        *(archives / 'new', 'training', '2.0'), data_prefix=prefix
    ).get_data_info(0)
    assert named['img_path'].endswith('validation/images/v.jpg')
    assert named['seg_map_path'].endswith('new/elsewhere/v.png')
    del prefix['img_path']
    with pytest.raises(FileNotFoundError, match=r'elsewhere/t\.png'):
        build(archives / 'new', 'training', '2.0', data_prefix=prefix)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(version='3.0'), r"version='3\.0'; expected one of \['1\.1'"),
        (dict(scored_at='full'), r"scored_at='full'; expected one of"),
        (dict(data_prefix=None), r'neither split nor data_prefix'),
    ],
)
def test_bad_arguments(kwargs, message, root):
    with pytest.raises(ValueError, match=message):
        build(root, **kwargs)


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
