"""`LoadSegLabels`: what it reads, maps and refuses."""

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
    assert results['gt_seg_map'].dtype == np.uint8
    return results['gt_seg_map']


def palette():
    image = Image.fromarray(TRAIN_IDS, mode='P')
    image.putpalette([value for i in range(256) for value in (i, 0, 255 - i)])
    return image


def of(*values):
    return np.array([values], np.uint8)


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [
        (TRAIN_IDS, TRAIN_IDS),
        (np.resize(TRAIN_IDS, (8, 1)), np.resize(TRAIN_IDS, (8, 1))),
        # Indices, not colours.
        (palette(), TRAIN_IDS),
        (TRAIN_IDS.astype(np.uint16), TRAIN_IDS),
        (TRAIN_IDS > 4, TRAIN_IDS > 4),
    ],
)
@pytest.mark.fault(
    'labels with a palette, of 16 bits, or of two values',
    'read as class numbers, not as colours',
)
def test_reads_indices(save, pixels, expected):
    np.testing.assert_array_equal(load(save(pixels)), expected)


def wide():
    label = TRAIN_IDS.astype(np.uint16)
    label[0, 0] = 259  # 3 as uint8, a class
    return label


STREET = dict(img_path='street.png', ori_shape=(64, 64))
CUT_OFF = dict(label_map={**{i: i for i in range(65)}, 65: 255})


@pytest.mark.parametrize(
    ('pixels', 'info', 'kwargs', 'match'),
    [
        (wide(), {}, {}, 'label.tif: a uint16 label with values from 1 to 25'),
        (TRAIN_IDS.astype(np.float32), {}, {}, r'label\.tif: a float32 label'),
        (Image.new('RGBA', (4, 2)), {}, {}, 'with 4 channels'),
        (
            of(0, 200, 200, 19),
            *({}, {}),
            r'label\.tif: values that are no class: 19 \(1 px\), '
            r'200 \(2 px\); expected 0 to 18, 255\. If',
        ),
        (of(254), {}, {}, r'254 \(1 px\)'),
        # A value without entry in the map.
        (
            *(of(0, 66), CUT_OFF, dict(num_classes=65)),
            r'66 \(1 px\); expected 0 to 65, 255',
        ),
        # A map to 255 alone lets nothing else through.
        (
            *(of(0, 11, 12), {}, dict(num_classes=11, label_map={11: 255})),
            r'class: 12 \(1 px\); expected 0 to',
        ),
        (of(7, 26, 33), {}, {}, "label_format='labelIds'"),
        (of(26, 200), {}, {}, r'200 \(1 px\); [^L]*If there'),
        (
            *(np.zeros((50, 64), np.uint8), STREET, {}),
            r'label\.tif: the label is 50x64, its image 64x64.*street\.png',
        ),
    ],
)
@pytest.mark.fault(
    'label values that are no class',
    'refused, with file, values and counts',
)
@pytest.mark.fault(
    'a label of 16 bits above 255, of floats, or of 4 channels',
    'refused, with file and kind',
)
@pytest.mark.fault(
    'labels with ids where trainIds are expected',
    'refused, with the setting that helps',
)
@pytest.mark.fault(
    'a label of another size than its image',
    'refused, with both sizes and paths',
)
def test_refuses(save, pixels, info, kwargs, match):
    path = save(pixels, 'label.tif')
    with pytest.raises(ValueError, match=match):
        load(path, info, **kwargs)


@pytest.mark.parametrize('keep', [0, 70])
@pytest.mark.fault(
    'a label that is empty or cut',
    'refused, with its path',
)
def test_truncated_file(keep, tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.resize(TRAIN_IDS, (64, 64))).save(content, 'png')
    path = tmp_path / 'short.png'
    path.write_bytes(content.getvalue()[:keep])
    with pytest.raises(ValueError, match=r'short\.png: not a readable label'):
        load(str(path))


def test_the_cure_for_a_void_value_is_to_be_pasted(save):
    def offered(path, **kwargs):
        """The map that the error says to write."""
        with pytest.raises(ValueError, match='label_map=') as error:
            load(path, **kwargs)
        return ast.literal_eval(str(error.value).partition('label_map=')[2])

    path = save(of(0, 10, 11, 255))
    label_map = offered(path, num_classes=11)
    assert label_map == {11: 255}
    # As a config keeps it.
    cfg = Config(dict(load=dict(num_classes=11, label_map=label_map)))
    again = Config.fromstring(cfg.pretty_text, '.py').load.label_map
    for one in (label_map, again):
        found = load(path, num_classes=11, label_map=one)
        assert found.tolist() == [[0, 10, 255, 255]]
    # Beside a map of classes it is one entry more.
    path = save(of(7, 8, 9))
    found = load(path, label_map=offered(path, label_map={7: 0, 8: 1}))
    assert found.tolist() == [[0, 1, 255]]


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
    info = dict(label_map={0: 3, 1: 255})
    own = {7: 0, 8: 1, 9: 255}
    found = load(save(of(7, 8, 9, 255)), info, label_map=own)
    assert found.tolist() == [[3, 255, 255, 255]]
    # What a map to 255 alone leaves is mapped as well.
    info = dict(label_map={0: 3, 5: 4})
    found = load(save(of(0, 5, 11)), info, label_map={11: 255})
    assert found.tolist() == [[3, 4, 255]]


def test_sample_without_label_and_other_back_ends(save, monkeypatch):
    transform = TRANSFORMS.build(dict(type='LoadSegLabels', num_classes=19))
    assert transform(dict(img_path='a.png')) == dict(img_path='a.png')
    assert 'num_classes=19' in repr(transform)

    class Remote(LocalBackend):
        def get(self, filepath):
            return super().get(path)

    path = save(TRAIN_IDS)
    monkeypatch.setitem(backends.backends, 'remote', Remote)
    found = load('far.png', backend_args=dict(backend='remote'))
    np.testing.assert_array_equal(found, TRAIN_IDS)


def test_options(save):
    found = load(save(of(3, 19, 253, 254)), unknown='ignore')
    assert found.tolist() == [[3, 255, 255, 255]]
    for kwargs, message in (
        (dict(num_classes=0), 'num_classes=0; expected 1 to 254'),
        (dict(num_classes=255), 'num_classes=255'),
        (dict(num_classes='19'), "num_classes='19'; expected 1 to 254"),
        (dict(unknown='drop'), "unknown='drop'; expected 'error' or"),
        (dict(label_map={7: 19}), r'label_map leads to \[19\]; expected 0'),
    ):
        with pytest.raises(ValueError, match=message):
            load('unused.png', **kwargs)
