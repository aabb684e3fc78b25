"""The demo's scenes: files, labels, and what its classes are told by."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

# The tools are scripts, which find each other in their own folder.
sys.path.insert(0, str(Path(__file__).parents[2] / 'tools' / 'dev' / 'demo'))

import methods
import street_scenes

# name: (labelId, trainId), from Cityscapes' own table of labels.
CITYSCAPES = {
    'road': (7, 0),
    'building': (11, 2),
    'wall': (12, 3),
    'pole': (17, 5),
    'traffic sign': (20, 7),
    'vegetation': (21, 8),
    'sky': (23, 10),
    'car': (26, 13),
    'truck': (27, 14),
}
UNTRAINED_IDS = {1, 2}  # ego vehicle, rectification border
SMALL = dict(num_images=dict(train=2, val=1), size=(64, 128))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def read(path):
    return np.array(Image.open(path))


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        street_scenes.generate(tmp_path / name, seed, **SMALL)
    first, same, other = (contents(tmp_path / name) for name in 'abc')
    assert first == same
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_a_scene_does_not_depend_on_the_number_of_scenes(tmp_path):
    few = street_scenes.generate(tmp_path / 'few', 0, dict(val=1), (64, 128))
    many = street_scenes.generate(tmp_path / 'many', 0, **SMALL)
    pattern = 'leftImg8bit/val/*/*_000000_*.png'
    (of_few,), (of_many,) = few.glob(pattern), many.glob(pattern)
    assert of_few.read_bytes() == of_many.read_bytes()
    others = [path.read_bytes() for path in many.glob('leftImg8bit/*/*/*')]
    assert len({*others}) == 3


def test_layout_is_that_of_cityscapes(tmp_path):
    root = street_scenes.generate(tmp_path / 'data', 0, **SMALL)
    names = {path.as_posix() for path in contents(root)}
    expected = {'settings.json'}
    for split, count in SMALL['num_images'].items():
        for k in range(count):
            stem = f'{split}/demoville/demoville_{k:06d}_000019'
            expected |= {
                f'leftImg8bit/{stem}_leftImg8bit.png',
                f'gtFine/{stem}_gtFine_labelIds.png',
                f'gtFine/{stem}_gtFine_labelTrainIds.png',
            }
    assert names == expected
    for path in root.rglob('*.png'):
        pixels = read(path)
        channels = () if 'gtFine' in path.name else (3,)
        assert pixels.shape == (64, 128, *channels)
        assert pixels.dtype == np.uint8


def test_ids_are_those_of_cityscapes(tmp_path):
    count = 6
    root = street_scenes.generate(tmp_path / 'data', 0, dict(test=count))
    table = np.full(256, 255)
    for label_id, train_id in CITYSCAPES.values():
        table[label_id] = train_id
    seen = set()
    for path in root.rglob('*_labelIds.png'):
        label_ids = read(path)
        seen |= {*np.unique(label_ids)}
        name = path.name.replace('labelIds', 'labelTrainIds')
        assert np.array_equal(read(path.with_name(name)), table[label_ids])
        # The border that Cityscapes does not label.
        assert {*label_ids[0], *label_ids[:, 0]} <= UNTRAINED_IDS
    assert seen == UNTRAINED_IDS | {i for i, _ in CITYSCAPES.values()}


@pytest.mark.parametrize('model', methods.MODELS)
def test_configs_map_the_labels_to_their_classes(tmp_path, model):
    root = street_scenes.generate(tmp_path / 'data', 0, dict(val=3))
    cfg = Config.fromfile(methods.MODELS[model]).val_dataloader.dataset
    cfg.data_root = str(root)
    cfg.pipeline = [*cfg.pipeline[:1], dict(type='LoadAnnotations')]
    dataset = DATASETS.build(cfg)
    classes = dataset.metainfo['classes']
    assert sorted(classes) == sorted(CITYSCAPES)
    assert len(dataset) == 3
    for sample in dataset:
        path = sample['seg_map_path'].replace('labelTrainIds', 'labelIds')
        label_ids, labels = read(path), sample['gt_seg_map']
        for index, name in enumerate(classes):
            where = label_ids == CITYSCAPES[name][0]
            assert np.array_equal(labels == index, where)
        ours = methods.to_class_ids(read(sample['seg_map_path']), dataset)
        assert np.array_equal(ours, labels)


def facade_is_upright(image, inside):
    """Tell which way the bands run: by the means of columns and of rows."""
    grey = np.where(inside, image.mean(-1), np.nan)
    rows, cols = inside.any(1), inside.any(0)
    grey = grey[rows][:, cols]
    return grey.mean(0).var() > grey.mean(1).var()


def vehicle_is_upright(image, inside):
    """Tell which way the windows run: by the length of their edges."""
    grey = image.mean(-1)
    across = np.abs(np.diff(grey, axis=1))[inside[:, 1:] & inside[:, :-1]]
    down = np.abs(np.diff(grey, axis=0))[inside[1:] & inside[:-1]]
    return across.sum() > down.sum()


def augmented(pixels, resample):
    """Yield what training makes of a picture: flips and scales."""
    height, width = pixels.shape[:2]
    for factor in (0.5, 1, 2):
        size = (int(width * factor), int(height * factor))
        scaled = np.array(Image.fromarray(pixels).resize(size, resample))
        yield scaled
        yield scaled[:, ::-1]


@pytest.mark.parametrize(
    ('draw', 'is_upright', 'upright', 'level'),
    [
        (
            lambda canvas: street_scenes._draw_facade(canvas, 0, 0, 96, 120),
            facade_is_upright,
            'building',
            'wall',
        ),
        (
            lambda canvas: street_scenes._draw_vehicle(
                canvas, 100, canvas.rng.uniform(12, 60)
            ),
            vehicle_is_upright,
            'truck',
            'car',
        ),
    ],
    ids=['facades', 'vehicles'],
)
def test_class_survives_flips_and_scales(draw, is_upright, upright, level):
    seen = []
    for seed in range(30):
        canvas = street_scenes._Canvas(np.random.default_rng(seed), (128, 256))
        draw(canvas)
        (label,) = {*canvas.label_ids.flat} - {0}
        name = {CITYSCAPES[n][0]: n for n in (upright, level)}[label]
        inside = canvas.label_ids == label
        if inside.any(0).sum() < inside.any(1).sum():
            continue  # half of it is outside of the image
        seen.append(name)
        image = canvas.image.clip(0, 255).astype(np.uint8)
        for picture, mask in zip(
            augmented(image, Image.Resampling.BILINEAR),
            augmented(canvas.label_ids, Image.Resampling.NEAREST),
        ):
            found = is_upright(picture, mask == label)
            assert found == (name == upright), (seed, name, picture.shape)
    assert {*seen} == {upright, level}


def test_generating_again_does_nothing(tmp_path, monkeypatch):
    out = street_scenes.generate(tmp_path / 'data', 0, **SMALL)
    before = contents(out)

    def fail(*_):
        pytest.fail('a scene was drawn')

    monkeypatch.setattr(street_scenes, '_write_scene', fail)
    assert street_scenes.generate(out, 0, **SMALL) == out
    assert contents(out) == before


def test_other_settings_are_generated_anew(tmp_path, capsys):
    out = street_scenes.generate(tmp_path / 'data', 0, **SMALL)
    street_scenes.generate(out, 1, dict(val=1), (64, 128))
    assert 'made anew' in capsys.readouterr().out
    assert len([*out.rglob('*_leftImg8bit.png')]) == 1
    assert json.loads((out / 'settings.json').read_text())['seed'] == 1


def test_an_interrupted_set_is_generated_anew(tmp_path, monkeypatch):
    whole = contents(street_scenes.generate(tmp_path / 'a', 0, **SMALL))
    out, write = tmp_path / 'b', street_scenes._write_scene

    def write_one(root, split, index, *scene):
        if index == 1:
            raise KeyboardInterrupt
        write(root, split, index, *scene)

    with monkeypatch.context() as patch:
        patch.setattr(street_scenes, '_write_scene', write_one)
        with pytest.raises(KeyboardInterrupt):
            street_scenes.generate(out, 0, **SMALL)
    assert not out.exists()
    street_scenes.generate(out, 0, **SMALL)
    assert contents(out) == whole
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'b'}


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / 'letter.txt').write_text('dear')
    with pytest.raises(FileExistsError, match=r'has no settings\.json'):
        street_scenes.generate(tmp_path, 0, **SMALL)
    assert (tmp_path / 'letter.txt').read_text() == 'dear'


@pytest.mark.parametrize(
    ('num_images', 'size'),
    [(dict(val=0), (64, 128)), (dict(val=1), (0, 8)), (dict(dev=1), (8, 8))],
)
def test_settings_that_make_no_sense(tmp_path, num_images, size):
    with pytest.raises(ValueError, match='expected positive numbers'):
        street_scenes.generate(tmp_path / 'data', 0, num_images, size)
