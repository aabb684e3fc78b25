import ast
import io

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.fileio import LocalBackend, backends
from mmseg.registry import TRANSFORMS
from PIL import Image

TRAIN_IDS = np.array([[0, 18, 255, 7], [1, 2, 3, 4]], np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(pixels, name='label.png', **kwargs):
        image = pixels
        if isinstance(pixels, np.ndarray):
            image = Image.fromarray(pixels)
        image.save(tmp_path / name, **kwargs)
        return str(tmp_path / name)

    return save


def load(path, info=None, **kwargs):
    """Return the label, loaded as in a pipeline without an image."""
    kwargs = {'num_classes': 19, **kwargs}
    transform = TRANSFORMS.build(dict(type='LoadSegLabels', **kwargs))
    results = dict(seg_map_path=path, seg_fields=[], **(info or {}))
    results = transform(results)
    assert results['seg_fields'] == ['gt_seg_map']
    return results['gt_seg_map']


@pytest.mark.parametrize('shape', [(2, 4), (1, 8), (8, 1), (1, 1)])
def test_reads_indices(save, shape):
    label = np.resize(TRAIN_IDS, shape)
    found = load(save(label))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)


def test_reads_the_indices_of_a_palette_image_not_its_colours(save):
    image = Image.fromarray(TRAIN_IDS, mode='P')
    image.putpalette([value for i in range(256) for value in (i, 0, 255 - i)])
    np.testing.assert_array_equal(load(save(image)), TRAIN_IDS)


def test_16_bit_files_with_values_of_8_bits(save):
    label = TRAIN_IDS.astype(np.uint16)
    found = load(save(label))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, TRAIN_IDS)


def test_one_bit(save):
    label = np.array([[True, False], [False, True]])
    found = load(save(Image.fromarray(label)))
    np.testing.assert_array_equal(found, [[1, 0], [0, 1]])
    assert found.dtype == np.uint8


def test_16_bit_value_does_not_wrap_around(save):
    label = TRAIN_IDS.astype(np.uint16)
    label[0, 0] = 259  # 3 as uint8, a class
    path = save(label)
    message = 'label.png: a uint16 label with values from 1 to 259'
    with pytest.raises(ValueError, match=message):
        load(path)


def test_floats(save):
    path = save(TRAIN_IDS.astype(np.float32), 'label.tif')
    with pytest.raises(ValueError, match=r'label\.tif: a float32 label'):
        load(path)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA'])
def test_several_channels(save, mode):
    path = save(Image.fromarray(TRAIN_IDS).convert(mode))
    with pytest.raises(ValueError, match=rf'with {len(mode)} channels'):
        load(path)


@pytest.mark.parametrize('keep', [0, 40, 70])
def test_truncated_file(save, keep, tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.resize(TRAIN_IDS, (64, 64))).save(content, 'png')
    path = tmp_path / 'short.png'
    path.write_bytes(content.getvalue()[:keep])
    with pytest.raises(ValueError, match=r'short\.png: not a readable label'):
        load(str(path))


def test_values_that_are_no_class(save):
    label = TRAIN_IDS.copy()
    label[0, :2] = 200
    label[1, 0] = 19
    with pytest.raises(
        ValueError,
        match=r'label\.png: values that are no class: 19 \(1 px\), '
        r'200 \(2 px\); expected 0 to 18, 255\. If',
    ):
        load(save(label))


def offered(error):
    """The map that an error says to write."""
    return ast.literal_eval(str(error.value).partition('label_map=')[2])


def test_the_cure_for_a_void_value_is_to_be_pasted(save):
    path = save(np.array([[0, 10, 11, 255]], np.uint8))
    with pytest.raises(ValueError, match='label_map=') as error:
        load(path, num_classes=11)
    label_map = offered(error)
    assert label_map == {11: 255}
    found = load(path, num_classes=11, label_map=label_map)
    np.testing.assert_array_equal(found, [[0, 10, 255, 255]])
    # As a config keeps it.
    cfg = Config(dict(load=dict(num_classes=11, label_map=label_map)))
    again = Config.fromstring(cfg.pretty_text, '.py').load.label_map
    np.testing.assert_array_equal(
        load(path, num_classes=11, label_map=again), found
    )
    # Beside a map of classes it is one entry more.
    path = save(np.array([[7, 8, 9]], np.uint8))
    with pytest.raises(ValueError, match='label_map=') as error:
        load(path, label_map={7: 0, 8: 1})
    found = load(path, label_map=offered(error))
    np.testing.assert_array_equal(found, [[0, 1, 255]])


def test_a_map_to_255_alone_lets_nothing_else_through(save):
    path = save(np.array([[0, 11, 12]], np.uint8))
    with pytest.raises(ValueError, match=r'class: 12 \(1 px\); expected 0 to'):
        load(path, num_classes=11, label_map={11: 255})
    # The data set's map is applied to what stays.
    found = load(
        save(np.array([[0, 5, 11]], np.uint8)),
        dict(label_map={0: 3, 5: 4}),
        num_classes=11,
        label_map={11: 255},
    )
    np.testing.assert_array_equal(found, [[3, 4, 255]])


@pytest.mark.parametrize('value', [19, 253, 254])
def test_unknown_ignored_on_request(save, value):
    label = TRAIN_IDS.copy()
    label[1, 1] = value
    expected = TRAIN_IDS.copy()
    expected[1, 1] = 255
    found = load(save(label), unknown='ignore')
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=rf'{value} \(1 px\)'):
        load(save(label))


def test_hint_for_label_ids(save):
    label = np.array([[7, 26, 33]], np.uint8)
    with pytest.raises(ValueError, match="label_format='labelIds'"):
        load(save(label))
    with pytest.raises(ValueError, match=r'200 \(1 px\)') as error:
        load(save(np.array([[26, 200]], np.uint8)))
    assert 'labelIds' not in str(error.value)


def test_maps_of_the_dataset_as_mmseg(save):
    rng = np.random.default_rng(0)
    label = rng.choice([*range(20), 255], (16, 16)).astype(np.uint8)
    label_map = {i: (i * 7) % 19 if i % 3 else 255 for i in range(19)}
    info = dict(reduce_zero_label=True, label_map=label_map)
    stock = TRANSFORMS.build(dict(type='LoadAnnotations'))
    path = save(label)
    expected = stock(dict(seg_map_path=path, seg_fields=[], **info))
    np.testing.assert_array_equal(load(path, info), expected['gt_seg_map'])


def test_own_map_comes_before_the_datasets(save):
    label = np.array([[7, 8, 9, 255]], np.uint8)
    found = load(
        save(label),
        dict(label_map={0: 3, 1: 255}),
        label_map={7: 0, 8: 1, 9: 255},
    )
    np.testing.assert_array_equal(found, [[3, 255, 255, 255]])


def test_value_without_entry_in_the_map(save):
    path = save(np.array([[0, 66]], np.uint8))
    info = dict(label_map={**{i: i for i in range(65)}, 65: 255})
    with pytest.raises(
        ValueError, match=r'66 \(1 px\); expected 0 to 65, 255'
    ):
        load(path, info, num_classes=65)


def test_size_other_than_the_images(save):
    path = save(np.zeros((50, 64), np.uint8))
    info = dict(img_path='street.png', ori_shape=(64, 64))
    with pytest.raises(
        ValueError,
        match=r'label\.png: the label is 50x64, its image 64x64.*street\.png',
    ):
        load(path, info)


def test_size_is_compared_with_the_image_before_resizing(save, tmp_path):
    save(np.zeros((20, 40, 3), np.uint8), 'image.png')
    path = save(np.full((20, 40), 3, np.uint8))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(20, 10)),
        dict(type='LoadSegLabels', num_classes=19),
    ]
    results = dict(
        img_path=str(tmp_path / 'image.png'), seg_map_path=path, seg_fields=[]
    )
    for step in pipeline:
        results = TRANSFORMS.build(step)(results)
    assert results['img'].shape == (10, 20, 3)
    assert results['gt_seg_map'].shape == (20, 40)


def test_sample_without_label_passes():
    transform = TRANSFORMS.build(dict(type='LoadSegLabels', num_classes=19))
    assert transform(dict(img_path='a.png')) == dict(img_path='a.png')


class _Remote(LocalBackend):
    def __init__(self, root):
        self.root = root

    def get(self, filepath):
        return super().get(f'{self.root}/{filepath}')


def test_other_back_end(save, tmp_path, monkeypatch):
    monkeypatch.setitem(backends.backends, 'remote', _Remote)
    save(TRAIN_IDS, 'far.png')
    args = dict(backend='remote', root=str(tmp_path))
    found = load('far.png', backend_args=args)
    np.testing.assert_array_equal(found, TRAIN_IDS)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_classes=0), 'num_classes=0; expected 1 to 254'),
        (dict(num_classes=255), 'num_classes=255'),
        (dict(unknown='drop'), "unknown='drop'; expected 'error' or"),
        (dict(label_map={7: 19}), r'label_map leads to \[19\]; expected 0'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load('unused.png', **kwargs)
