import shutil

import pytest
from mmengine import fileio
from mmengine.fileio import LocalBackend, backends
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

PREFIX = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
STEMS = ['aachen/aachen_000001', 'aachen/aachen_000002', 'ulm/ulm_000003']
IMG_SUFFIX = '_leftImg8bit.png'
SEG_SUFFIX = '_gtFine_labelTrainIds.png'


@pytest.fixture
def root(tmp_path):
    """A data set of empty files: the checks must not open any of them."""
    for stem in STEMS:
        for folder, suffix in zip(PREFIX.values(), (IMG_SUFFIX, SEG_SUFFIX)):
            path = tmp_path / folder / (stem + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def build(root, **kwargs):
    kwargs = {'data_prefix': PREFIX, **kwargs}
    return DATASETS.build(
        dict(type='HMSACityscapesDataset', data_root=str(root), **kwargs)
    )


@pytest.mark.parametrize('lazy_init', [False, True])
@pytest.mark.parametrize('serialize_data', [False, True])
def test_lists_the_same_as_mmseg(root, lazy_init, serialize_data):
    kwargs = dict(lazy_init=lazy_init, serialize_data=serialize_data)
    ours = build(root, **kwargs)
    theirs = CityscapesDataset(
        data_root=str(root), data_prefix=PREFIX, **kwargs
    )
    assert len(ours) == len(theirs) == 3
    for i in range(3):
        assert ours.get_data_info(i) == theirs.get_data_info(i)
    assert ours.metainfo == theirs.metainfo


def test_ann_file_lists_the_same_as_mmseg(root):
    (root / 'two.txt').write_text(f'{STEMS[2]}\n{STEMS[0]}\n')
    ours = build(root, ann_file='two.txt')
    theirs = CityscapesDataset(
        data_root=str(root), data_prefix=PREFIX, ann_file='two.txt'
    )
    assert len(ours) == 2
    assert [ours[i] for i in range(2)] == [theirs[i] for i in range(2)]


def test_ann_file_may_point_out_of_the_folder(root):
    (root / 'up.txt').write_text(f'../train/{STEMS[0]}\n')
    assert len(build(root, ann_file='up.txt')) == 1


def test_ann_file_of_whole_paths_needs_no_folder(root):
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


def test_subset_of_classes(root):
    classes = CityscapesDataset.METAINFO['classes'][:17:2]
    dataset = build(root, metainfo=dict(classes=classes))
    assert len(classes) == 9
    assert dataset.metainfo['classes'] == classes
    assert len(dataset.metainfo['palette']) == 9
    # Sidewalk (1) is left out, building (2) is the second that stays.
    label_map = dataset[0]['label_map']
    assert (label_map[1], label_map[2]) == (255, 1)


def test_missing_data_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_root='.*/nowhere'"):
        build(tmp_path / 'nowhere')


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_missing_folder(root, key):
    message = rf"data_prefix\.{key}: '.*/none' does not exist"
    with pytest.raises(FileNotFoundError, match=message):
        build(root, data_prefix={**PREFIX, key: 'none'})


def test_missing_absolute_folder_does_not_blame_data_root(tmp_path):
    prefix = dict(img_path=str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match=r'^data_prefix\.img_path'):
        build('nowhere', data_prefix=prefix)


def test_file_in_place_of_a_folder(root):
    prefix = {
        **PREFIX,
        'img_path': f'leftImg8bit/train/{STEMS[0]}{IMG_SUFFIX}',
    }
    with pytest.raises(FileNotFoundError, match='is not a folder'):
        build(root, data_prefix=prefix)


def test_missing_ann_file(root):
    with pytest.raises(FileNotFoundError, match=r"ann_file='.*/no\.txt'"):
        build(root, ann_file='no.txt')


def test_empty_ann_file(root):
    (root / 'empty.txt').touch()
    with pytest.raises(ValueError, match=r'0 images listed in ann_file=.*emp'):
        build(root, ann_file='empty.txt')


def test_ann_file_names_an_image_that_is_not_there(root):
    (root / 'list.txt').write_text(f'{STEMS[0]}\nulm/ulm_9\n')
    message = r'1 of 2 images named in ann_file=.*ulm_9_leftImg8bit\.png'
    with pytest.raises(FileNotFoundError, match=message):
        build(root, ann_file='list.txt')


def test_no_images(root):
    shutil.rmtree(root / PREFIX['img_path'])
    (root / PREFIX['img_path']).mkdir()
    message = r"0 images with suffix '_leftImg8bit\.png'.*under '.*no file"
    with pytest.raises(ValueError, match=message):
        build(root)


def test_no_images_with_this_suffix_says_what_is_there(root):
    message = r"0 images with suffix '\.jpg'.*found '(aachen|ulm)/"
    with pytest.raises(ValueError, match=message):
        build(root, img_suffix='.jpg')


@pytest.mark.parametrize('serialize_data', [False, True])
def test_no_images_found_late_with_lazy_init(root, serialize_data):
    dataset = build(
        root, img_suffix='.x', lazy_init=True, serialize_data=serialize_data
    )
    with pytest.raises(ValueError, match='0 images'):
        dataset.full_init()


def test_images_without_label(root):
    for stem in STEMS[1:]:
        (root / PREFIX['seg_map_path'] / (stem + SEG_SUFFIX)).unlink()
    message = '2 of 3 images have no label.*aachen_000002_gtFine.*ulm_000003'
    with pytest.raises(FileNotFoundError, match=message):
        build(root)
    assert len(build(root, test_mode=True)) == 3


def test_of_many_missing_labels_three_are_named(root):
    for i in range(5):
        (root / PREFIX['img_path'] / f'x{i}{IMG_SUFFIX}').touch()
    with pytest.raises(FileNotFoundError, match='5 of 8') as error:
        build(root)
    assert str(error.value).count(f"{SEG_SUFFIX}', ") == 3


def test_wrong_label_suffix(root):
    with pytest.raises(FileNotFoundError, match=r"'\.png' \(seg_map_suffix\)"):
        build(root, seg_map_suffix='.png')


def test_test_mode_needs_no_label_folder(root):
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


@pytest.fixture
def remote_args(root, monkeypatch):
    # register_backend has no counterpart that takes a back end out again.
    monkeypatch.setitem(backends.backends, 'remote', _RemoteBackend)
    return dict(backend='remote', root=str(root))


def test_other_back_end(root, remote_args):
    dataset = build('remote', backend_args=remote_args)
    assert len(dataset) == 3
    folder = f'remote/{PREFIX["img_path"]}'
    assert dataset[0]['img_path'] == f'{folder}/{STEMS[0]}{IMG_SUFFIX}'
    (root / PREFIX['seg_map_path'] / (STEMS[1] + SEG_SUFFIX)).unlink()
    with pytest.raises(FileNotFoundError, match='1 of 3 images have no label'):
        build('remote', backend_args=remote_args)
    with pytest.raises(FileNotFoundError, match=r'data_prefix\.img_path'):
        build(
            'remote',
            data_prefix=dict(img_path='none'),
            backend_args=remote_args,
        )


def test_back_end_that_cannot_list_is_left_unchecked(root):
    url = 'http://127.0.0.1/images'
    assert not hasattr(fileio.get_file_backend(url), 'list_dir_or_file')
    (root / 'names.txt').write_text('a\nb\n')
    dataset = build(
        root,
        ann_file='names.txt',
        data_prefix=dict(img_path=url, seg_map_path=url),
    )
    assert [dataset[i]['img_path'] for i in range(2)] == [
        f'{url}/{name}{IMG_SUFFIX}' for name in 'ab'
    ]
