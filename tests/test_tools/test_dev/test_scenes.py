"""The demos' scenes: files, labels, and what its classes are told by."""

import numpy as np
import pytest
import scenes
from autolabel_demo.experiment import TEACHER
from demo.experiment import MODELS
from driver.labels import dataset
from PIL import Image

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
SMALL = dict(num_images=dict(train=2, val=1, train_extra=1), size=(64, 128))


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
        scenes.generate(tmp_path / name, seed, **SMALL)
    first, same, other = (contents(tmp_path / name) for name in 'abc')
    assert first == same
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_layout_is_that_of_cityscapes(tmp_path):
    scenes.generate(tmp_path, 0, **SMALL)
    expected = {'settings.json'}
    for split, count in SMALL['num_images'].items():
        fine = 'gtTrue' if split == 'train_extra' else 'gtFine'
        for k in range(count):
            stem = f'{split}/demoville/demoville_{k:06d}_000019'
            expected |= {
                f'leftImg8bit/{stem}_leftImg8bit.png',
                f'{fine}/{stem}_gtFine_labelIds.png',
                f'{fine}/{stem}_gtFine_labelTrainIds.png',
            }
            if split == 'train_extra':
                expected.add(f'gtCoarse/{stem}_gtCoarse_labelIds.png')
    assert {path.as_posix() for path in contents(tmp_path)} == expected
    for path in tmp_path.rglob('*.png'):
        pixels = read(path)
        channels = (3,) if 'leftImg8bit' in path.name else ()
        assert pixels.shape == (64, 128, *channels)
        assert pixels.dtype == np.uint8


def test_ids_are_those_of_cityscapes(tmp_path):
    count = 6
    scenes.generate(tmp_path, 0, dict(test=count))
    table = np.full(256, 255)
    for label_id, train_id in CITYSCAPES.values():
        table[label_id] = train_id
    seen = set()
    for path in tmp_path.rglob('*_labelIds.png'):
        label_ids = read(path)
        seen |= {*np.unique(label_ids)}
        name = path.name.replace('labelIds', 'labelTrainIds')
        assert np.array_equal(read(path.with_name(name)), table[label_ids])
        # The border that Cityscapes does not label.
        assert {*label_ids[0], *label_ids[:, 0]} <= UNTRAINED_IDS
    assert seen == UNTRAINED_IDS | {i for i, _ in CITYSCAPES.values()}


@pytest.mark.parametrize(
    ('config', 'data'),
    [
        (MODELS['single'], 'data/street_scenes'),
        (TEACHER.path, 'data/street_scenes_autolabel'),
    ],
    ids=['demo', 'autolabel'],
)
def test_configs_map_the_labels_to_their_classes(tmp_path, config, data):
    scenes.generate(tmp_path / data, 0, dict(val=3))
    found = dataset(config, 'val_dataloader', tmp_path)
    classes = found.metainfo['classes']
    assert sorted(classes) == sorted(CITYSCAPES)
    assert len(found) == 3
    for sample in found:
        path = sample['seg_map_path'].replace('labelTrainIds', 'labelIds')
        label_ids, labels = read(path), sample['gt_seg_map']
        for index, name in enumerate(classes):
            where = label_ids == CITYSCAPES[name][0]
            assert np.array_equal(labels == index, where)


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
            lambda canvas: scenes._draw_facade(canvas, 0, 0, 96, 120),
            facade_is_upright,
            'building',
            'wall',
        ),
        (
            lambda canvas: scenes._draw_vehicle(
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
        canvas = scenes._Canvas(np.random.default_rng(seed), (128, 256))
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
    out = tmp_path / 'data'
    scenes.generate(out, 0, **SMALL)
    before = contents(out)
    monkeypatch.setattr(
        scenes, '_write_scene', lambda *_: pytest.fail('drawn')
    )
    scenes.generate(out, 0, **SMALL)
    assert contents(out) == before
    with pytest.raises(FileExistsError, match='expected a new or empty'):
        scenes.generate(out, 1, **SMALL)
    assert contents(out) == before


def test_an_interrupted_set_is_generated_anew(tmp_path, monkeypatch):
    scenes.generate(tmp_path / 'a', 0, **SMALL)
    out, write = tmp_path / 'b', scenes._write_scene

    def write_one(root, split, index, *scene):
        if index == 1:
            raise KeyboardInterrupt
        write(root, split, index, *scene)

    with monkeypatch.context() as patch:
        patch.setattr(scenes, '_write_scene', write_one)
        with pytest.raises(KeyboardInterrupt):
            scenes.generate(out, 0, **SMALL)
    assert not out.exists()
    scenes.generate(out, 0, **SMALL)
    assert contents(out) == contents(tmp_path / 'a')
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'b'}


def truths(count=6):
    for index in range(count):
        yield scenes.draw_scene(np.random.default_rng([5, 3, index]))[1]


def test_polygons_hold_the_truth_and_keep_off_borders():
    assert scenes.COARSE_MARGIN - scenes.COARSE_TOLERANCE >= 1
    found = set()
    for truth in truths():
        polygons = scenes.coarse_polygons(truth)
        rows, cols = np.nonzero(polygons)
        found |= {*polygons[rows, cols]}
        # Neighbours at a distance of one px are of the same thing.
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near = truth[
                    (rows + down).clip(0, truth.shape[0] - 1),
                    (cols + right).clip(0, truth.shape[1] - 1),
                ]
                assert np.array_equal(near, polygons[rows, cols])
    # Small things have none.
    small = {CITYSCAPES[name][0] for name in ('pole', 'traffic sign')}
    assert found - UNTRAINED_IDS == {i for i, _ in CITYSCAPES.values()} - small
