"""`ClassUniformDataset`: wrappers, seeds and centroids."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn
from PIL import Image

from hmsa_mmseg.datasets.class_uniform_dataset import SampleIndex

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@pytest.fixture
def root(tmp_path, write_set):
    return write_set(tmp_path / 'set')


def numpy_random():
    return np.random.random()  # noqa: NPY002 (what transforms draw from)


def pixels(sample):
    return sample['inputs'].numpy().tobytes()


def centroids_of(label, values):
    """Centroids of a label that is one tile: {class: (x, y)}."""
    found = {}
    for class_id, value in enumerate(values):
        y, x = np.nonzero(label == value)
        if len(x):
            found[class_id] = (int(x.mean()), int(y.mean()))
    return found


def rows_of(centroids, sample):
    rows = centroids[centroids[:, 0] == sample]
    return {c: (x, y) for _, x, y, c in rows.tolist()}


def read(root, k):
    return np.array(Image.open(root / 'ann' / f'{k:03d}.png'))


def test_a_number_gives_what_the_dataset_gives(root, set_cfg, class_uniform):
    cfg = set_cfg(root, LOAD, lazy_init=True)
    dataset = class_uniform(cfg, lazy_init=True)
    assert len(dataset) == 6
    assert dataset.metainfo == dataset.dataset.metainfo
    for k in range(6):
        img = dataset.dataset[k]['img']
        assert np.array_equal(dataset[k]['img'], img)
    assert len([*dataset]) == 6
    with pytest.raises(IndexError, match='sample 6 of 6'):
        dataset[6]


@pytest.mark.parametrize('centroid', [None, (5, 6)])
def test_a_seed_fixes_a_sample(root, set_cfg, class_uniform, centroid):
    dataset = class_uniform(set_cfg(root))
    worker_init_fn(0, 1, 0, 0)
    samples = {
        seed: pixels(dataset[SampleIndex(1, seed, centroid)])
        for seed in (5, 6, 2**63 - 1)
    }
    assert len({*samples.values()}) == 3
    worker_init_fn(3, 4, 1, 99)
    # As for workers that are spawned.
    dataset = pickle.loads(pickle.dumps(dataset))
    for seed, sample in samples.items():
        assert pixels(dataset[SampleIndex(1, seed, centroid)]) == sample


def test_what_the_pipeline_gets(root, set_cfg, class_uniform):
    def draw():
        return random.random(), numpy_random(), torch.rand(1).item()

    drawn = []

    def transform(results):
        drawn.append(draw())
        return results

    dataset = class_uniform(set_cfg(root, [*LOAD, transform]))
    worker_init_fn(0, 1, 0, 0)
    expected = draw()
    worker_init_fn(0, 1, 0, 0)
    results = dataset[SampleIndex(2, 7, (5, 6), 3)]
    # The random states of the process are kept.
    assert draw() == expected
    assert results['class_centroid'] == (5, 6)
    assert results['class_id'] == 3
    assert results['img_path'].endswith('002.png')
    for seed in (7, 8):
        assert 'class_centroid' not in dataset[SampleIndex(2, seed)]
    # Any generator is seeded.
    assert drawn[0] == drawn[1]
    assert all(first != other for first, other in zip(drawn[0], drawn[2]))


@pytest.mark.fault(
    'a step of the pipeline refuses an image',
    'another, the same each time; an error after max_refetch',
)
def test_a_refused_sample_is_replaced(root, set_cfg, class_uniform):
    def refuse(results):
        return None if results['img_path'].endswith('002.png') else results

    dataset = class_uniform(set_cfg(root, [refuse, *LOAD]))
    others = [dataset[SampleIndex(2, 5, (1, 1), 0)] for _ in range(2)]
    assert others[0]['img_path'] == others[1]['img_path']
    assert not others[0]['img_path'].endswith('002.png')

    dataset = class_uniform(
        set_cfg(root, [lambda results: None], max_refetch=3)
    )
    with pytest.raises(Exception, match='Cannot find valid image after 3'):
        dataset[SampleIndex(2, 5, (1, 1), 0)]


def test_nested_wrappers(tmp_path, write_set, set_cfg, class_uniform):
    roots = [write_set(tmp_path / f'{k}', 3, seed=k) for k in range(2)]
    first, second = (set_cfg(root, LOAD) for root in roots)
    concat = dict(
        type='ConcatDataset', datasets=[second, dict(**first, indices=[2, 0])]
    )
    dataset = class_uniform(
        dict(type='RepeatDataset', dataset=concat, times=2)
    )
    places = [(1, 0), (1, 1), (1, 2), (0, 2), (0, 0)] * 2
    assert len(dataset) == len(places)
    centroids = dataset.class_centroids(1024)
    for k, (root, number) in enumerate(places):
        path = str(roots[root] / 'img' / f'{number:03d}.png')
        assert dataset.get_data_info(k)['img_path'] == path
        assert dataset[SampleIndex(k, 0, (1, 1))]['img_path'] == path
        expected = centroids_of(read(roots[root], number), range(4))
        assert rows_of(centroids, k) == expected
    assert {*dataset.parts()} == {0}

    dataset = class_uniform(
        dict(type='ConcatDataset', datasets=[second, first])
    )
    assert dataset.parts().tolist() == [0] * 3 + [1] * 3


def test_each_label_is_read_once(root, set_cfg, class_uniform):
    read_paths = []

    def count(results):
        read_paths.append(results['seg_map_path'])
        return results

    cfg = dict(type='RepeatDataset', dataset=set_cfg(root, LOAD), times=50)
    loader = [count, LOAD[1]]
    dataset = class_uniform(cfg, label_loader=loader)
    centroids = dataset.class_centroids(1024)
    assert len(read_paths) == len({*read_paths}) == 6
    assert {*centroids[:, 0].tolist()} == {*range(300)}


def test_labels_are_mapped_as_in_training(
    tmp_path, write_set, set_cfg, class_uniform
):
    root = write_set(tmp_path / 'set', values=(0, 1, 2, 3, 4, 255))
    dataset = class_uniform(set_cfg(root, LOAD, reduce_zero_label=True))
    centroids = dataset.class_centroids(1024)
    for k in range(6):
        expected = centroids_of(read(root, k), (1, 2, 3, 4))
        assert rows_of(centroids, k) == expected
        label = dataset[k]['gt_seg_map']
        assert centroids_of(label, range(4)) == expected


class LoadMyLabels:
    """A loader by its name, which loads nothing."""

    def __call__(self, results):
        return results


@pytest.mark.fault(
    'centroids of labels with values that are no class',
    'refused, with file, values and counts',
)
def test_labels_that_cannot_be_used(
    tmp_path, write_set, set_cfg, root, class_uniform
):
    cfg = dict(type='MultiImageMixDataset', dataset=set_cfg(root), pipeline=[])
    with pytest.raises(TypeError, match='cannot wrap a MultiImageMixDataset'):
        class_uniform(cfg)

    other = write_set(tmp_path / 'other', 1, values=(0, 77), size=(1, 40))
    count = int((read(other, 0) == 77).sum())
    no_class = class_uniform(set_cfg(other, LOAD))
    no_loader = class_uniform(set_cfg(root, LOAD[:1]))
    loads_nothing = class_uniform(set_cfg(root, [LoadMyLabels()]))
    cfg = dict(set_cfg(root, LOAD), data_prefix=dict(img_path='img'))
    for dataset, match in (
        (no_class, rf'000.png.*77 \({count} pixels\).*expected 0 to 3'),
        # Nothing half-made is left for the next start.
        (no_class, '77'),
        (no_loader, r"\['LoadImageFromFile'\].*expected"),
        (loads_nothing, r"\['LoadMyLabels'\] loaded no label"),
        (class_uniform(cfg), r'has no label.*seg_map_path'),
    ):
        with pytest.raises(ValueError, match=match):
            dataset.class_centroids(1024)
