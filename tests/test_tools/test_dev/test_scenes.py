"""The demos' scenes: files, labels, and what its classes are told by."""

import numpy as np
import pytest
import scenes
from autolabel_demo.experiment import DATA as AUTOLABEL
from autolabel_demo.experiment import TEACHER
from demo.experiment import DATA as DEMO
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
    # As in Cityscapes; what is coarse there has its truth beside it.
    stem = 'train_extra/demoville/demoville_000000_000019'
    assert {p.as_posix() for p in first if 'extra' in p.as_posix()} == {
        f'leftImg8bit/{stem}_leftImg8bit.png',
        f'gtTrue/{stem}_gtFine_labelIds.png',
        f'gtTrue/{stem}_gtFine_labelTrainIds.png',
        f'gtCoarse/{stem}_gtCoarse_labelIds.png',
    }


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
    ('config', 'data'), [(MODELS['single'], DEMO), (TEACHER.path, AUTOLABEL)]
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


def test_an_interrupted_set_is_drawn_anew(tmp_path, monkeypatch):
    out, write = tmp_path / 'a', scenes._write_scene

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
    scenes.generate(tmp_path / 'b', 0, **SMALL)
    assert contents(out) == contents(tmp_path / 'b')
    with pytest.raises(FileExistsError, match='expected a new or empty'):
        scenes.generate(out, 1, **SMALL)


def test_polygons_hold_the_truth_and_keep_off_borders():
    assert scenes.COARSE_MARGIN - scenes.COARSE_TOLERANCE >= 1
    found = set()
    for index in range(6):
        truth = scenes.draw_scene(np.random.default_rng([5, 3, index]))[1]
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
