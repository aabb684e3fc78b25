"""`ClassUniformSampler`: shares, processes, resuming."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader

from hmsa_mmseg.datasets.samplers import class_uniform_sampler


class FakeDataset:
    """Stands for a wrapped data set with known centroids."""

    def __init__(self, size, num_classes, absent=(), parts=None, per_class=30):
        self.metainfo = dict(classes=[f'c{k}' for k in range(num_classes)])
        self._parts = np.zeros(size, int) if parts is None else parts
        rng = np.random.default_rng(0)
        rows = [
            (rng.integers(size), rng.integers(99), rng.integers(99), class_id)
            for class_id in range(num_classes)
            for _ in range(per_class + 20 * class_id)
            if class_id not in absent
        ]
        self.centroids = np.array(rows, np.int64).reshape(-1, 4)

    def __len__(self):
        return len(self._parts)

    def parts(self):
        return self._parts

    def class_centroids(self, tile_size, cache_dir):
        return self.centroids


def build(dataset, rank=0, world_size=1, **kwargs):
    cfg = dict(type='ClassUniformSampler', seed=3, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            class_uniform_sampler,
            'get_dist_info',
            lambda: (rank, world_size),
        )
        return DATA_SAMPLERS.build(cfg, default_args=dict(dataset=dataset))


def known(dataset):
    return {*map(tuple, dataset.centroids.tolist())}


def test_cityscapes_has_the_authors_shares():
    dataset = FakeDataset(2975, 19)
    sampler = build(dataset)
    samples = [*sampler]
    assert len(sampler) == len(samples) == 2975
    counts = Counter(sample.class_id for sample in samples)
    assert counts == {None: 1493, **dict.fromkeys(range(19), 78)}
    random_images = [s.index for s in samples if s.class_id is None]
    assert len({*random_images}) == 1493
    drawn = [(s.index, *s.centroid, s.class_id) for s in samples if s.centroid]
    assert {*drawn} <= known(dataset)
    # 78 draws from the 30 centroids of class 0.
    uses = Counter(row for row in drawn if row[3] == 0)
    assert {*uses.values()} == {2, 3}
    assert len(uses) == len({row for row in known(dataset) if row[3] == 0})


@given(
    size=st.integers(1, 80),
    num_classes=st.integers(1, 6),
    pct=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 10**6),
)
def test_every_class_has_its_share(size, num_classes, pct, seed, epoch):
    dataset = FakeDataset(size, num_classes)
    sampler = DATA_SAMPLERS.build(
        dict(type='ClassUniformSampler', seed=seed, pct=pct),
        default_args=dict(dataset=dataset),
    )
    plan = sampler.plan(epoch)
    assert plan.shape == (size, 4)
    counts = np.bincount(plan[:, 3] + 1, minlength=num_classes + 1)
    assert {*counts[1:]} == {int(size * pct / num_classes)}
    centroids = plan[plan[:, 3] >= 0]
    assert {*map(tuple, centroids.tolist())} <= known(dataset)
    images = plan[plan[:, 3] < 0, 0]
    assert len({*images.tolist()}) == len(images)
    assert (images >= 0).all()
    assert (images < size).all()


def test_the_plan_depends_on_seed_and_epoch_alone():
    dataset = FakeDataset(50, 3)
    first, second = build(dataset), build(dataset, infinite=True, rank=1)
    for epoch in (2, 0, 2):
        assert np.array_equal(first.plan(epoch), second.plan(epoch))
    assert not np.array_equal(first.plan(0), first.plan(1))
    second.seed = 4
    for epoch in (0, 1):
        assert not np.array_equal(first.plan(epoch), second.plan(0))


@pytest.mark.parametrize('world_size', [1, 7, 64])
def test_processes_share_an_epoch(world_size):
    dataset = FakeDataset(50, 3)
    streams = []
    for rank in range(world_size):
        sampler = build(dataset, rank, world_size)
        sampler.set_epoch(5)
        streams.append([*sampler])
        assert len(streams[-1]) == len(sampler) == -(-50 // world_size)
    together = [s for group in zip(*streams) for s in group]
    whole = build(dataset)
    whole.set_epoch(5)
    assert together[:50] == [*whole]
    # What rounds up repeats the start, but not its random choices.
    for extra, sample in zip(together[50:], together):
        assert extra._replace(seed=0) == sample._replace(seed=0)
    assert len({s.seed for s in together}) == len(together)
    # Or nothing is repeated.
    streams = [
        build(dataset, rank, world_size, round_up=False)
        for rank in range(world_size)
    ]
    assert sum(map(len, streams)) == 50
    drawn = Counter(s for stream in streams for s in stream)
    assert drawn == Counter(build(dataset))


@pytest.mark.parametrize('world_size', [1, 4])
def test_infinite_streams_go_through_the_epochs(world_size):
    dataset = FakeDataset(50, 3)
    count = 180 // world_size + 1
    streams = [
        itertools.islice(build(dataset, r, world_size, infinite=True), count)
        for r in range(world_size)
    ]
    together = [s for group in zip(*streams) for s in group][:180]
    expected = []
    whole = build(dataset)
    for epoch in range(4):
        whole.set_epoch(epoch)
        expected += whole
    assert together == expected[:180]


@pytest.mark.parametrize('infinite', [False, True])
@pytest.mark.parametrize('skipped', [25, 77])
def test_skip_leaves_out_what_was_seen(infinite, skipped):
    dataset = FakeDataset(50, 3)
    args = dict(rank=1, world_size=2, infinite=infinite)
    sampler = build(dataset, **args)
    if infinite:
        stream = [*itertools.islice(sampler, 150)]
    else:
        stream = []
        for epoch in range(6):
            sampler.set_epoch(epoch)
            stream += sampler
    resumed = build(dataset, **args)
    resumed.skip(skipped)
    if infinite:
        rest = [*itertools.islice(resumed, 150 - skipped)]
    else:
        rest = []
        for epoch in range(skipped // 25, 6):
            resumed.set_epoch(epoch)
            rest += resumed
    assert rest == stream[skipped:]


def test_options():
    dataset = FakeDataset(50, 3)
    samples = [*build(dataset, bias=(2, 0, 1.5))]
    counts = Counter(s.class_id for s in samples)
    assert counts == {None: 22, 0: 16, 2: 12}
    sampler = build(dataset, until_epoch=2, infinite=True)
    samples = [*itertools.islice(sampler, 200)]
    uniform = [
        sum(s.class_id is not None for s in samples[i : i + 50])
        for i in range(0, 200, 50)
    ]
    assert uniform == [24, 24, 0, 0]
    assert sorted(s.index for s in samples[150:]) == [*range(50)]


def test_boosted_datasets_give_centroids_alone():
    # 30 fine images, 20 coarse ones.
    parts = np.repeat([0, 1], [30, 20])
    dataset = FakeDataset(50, 3, parts=parts, per_class=60)
    boost = dict(datasets=(1,), classes=(2,), until_epoch=1)
    sampler = build(dataset, boost=boost)
    assert len(sampler) == 30
    coarse = Counter()
    for epoch in range(30):
        plan = sampler.plan(epoch)
        assert len(plan) == 30
        used = plan[plan[:, 0] >= 30]
        coarse[epoch] += len(used)
        assert {*used[:, 3].tolist()} <= {2}
    assert coarse[0] > 0
    assert sum(coarse.values()) == coarse[0]


@pytest.mark.fault(
    'classes that no label has',
    'a warning with their names; others have their shares',
)
def test_shares_that_are_left_to_images(logged):
    dataset = FakeDataset(50, 3)
    dataset.class_centroids, dataset.metainfo = None, {}
    samples = [*build(dataset, pct=0)]  # reads no label
    assert sorted(s.index for s in samples) == [*range(50)]
    assert {s.centroid for s in samples} == {None}
    samples = [*build(FakeDataset(5, 3))]
    assert {s.class_id for s in samples} == {None}
    assert 'pct=0.5 of 5 samples' in logged('WARNING')[0]
    samples = [*build(FakeDataset(50, 5, absent=(1, 4)))]
    counts = Counter(s.class_id for s in samples)
    assert counts == {None: 35, 0: 5, 2: 5, 3: 5}
    assert "['c1', 'c4']" in logged('WARNING')[1]
    with pytest.raises(ValueError, match='no label has a pixel of any class'):
        build(FakeDataset(50, 3, absent=range(3)))


@pytest.mark.parametrize(
    ('kwargs', 'match'),
    [
        (dict(pct=1.5), 'pct=1.5'),
        (dict(tile_size=0), 'tile_size=0'),
        (dict(bias=(1, 2)), 'expected 3 factors'),
        (dict(bias=(1, -2, 0)), 'not negative'),
        (dict(bias=(9, 9, 9)), 'asks for 216 .* epochs of 50'),
        (dict(boost=dict(dataset=1)), 'boost .*did you mean datasets'),
        (dict(boost=dict(classes=(3,))), r'boost.classes=\(3,\).*0 to 2'),
        (dict(boost=dict(datasets=(0,))), 'not boosted'),
    ],
)
def test_bad_options(kwargs, match):
    with pytest.raises(ValueError, match=match):
        build(FakeDataset(50, 3), **kwargs)
    with pytest.raises(TypeError, match=r'got a list; .*ClassUnif'):
        build([1, 2, 3])
    unnamed = FakeDataset(50, 3)
    unnamed.metainfo = {}
    with pytest.raises(ValueError, match='has no classes'):
        build(unnamed)
    with pytest.raises(ValueError, match='num_samples=-1'):
        build(FakeDataset(50, 3)).skip(-1)


# --- with a real data set, through data loaders


@pytest.fixture
def dataset(tmp_path, write_set, set_cfg, class_uniform):
    root = write_set(tmp_path / 'set', count=16)
    return class_uniform(set_cfg(root))


def stream(dataset, epochs, workers=0, persistent=False):
    """The samples of some epochs, as one run would load them."""
    sampler = DATA_SAMPLERS.build(
        dict(type='ClassUniformSampler', seed=1),
        default_args=dict(dataset=dataset),
    )
    loader = DataLoader(
        dataset,
        batch_size=3,
        drop_last=True,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=persistent,
        collate_fn=pseudo_collate,
    )
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches += loader
    return [
        (image.numpy().tobytes(), sample.gt_sem_seg.data.numpy().tobytes())
        for batch in batches
        for image, sample in zip(batch['inputs'], batch['data_samples'])
    ]


@pytest.mark.parametrize(('workers', 'persistent'), [(2, True), (3, False)])
@pytest.mark.fault(
    'other or persistent workers, also after resuming',
    'the same samples in each epoch',
)
def test_workers_change_no_sample(dataset, workers, persistent):
    expected = stream(dataset, range(3))
    assert len(expected) == 3 * 15
    assert len({*expected}) == len(expected)
    assert stream(dataset, range(3), workers, persistent) == expected
    # Resumed after the first epoch, with other workers.
    rest = stream(dataset, range(1, 3), workers, persistent)
    assert rest == expected[15:]


@pytest.mark.parametrize('num_batches', [None, 40])
def test_built_by_the_runner(dataset, num_batches, monkeypatch):
    cfg = ConfigDict(
        dataset=dataset,
        sampler=dict(type='ClassUniformSampler', pct=0.5),
        batch_sampler=dict(type='TorchBatchSampler', drop_last=True),
        batch_size=2,
        num_workers=0,
    )
    if num_batches:
        cfg.num_batch_per_epoch = num_batches
    monkeypatch.setitem(
        DATA_SAMPLERS.module_dict, 'TorchBatchSampler', BatchSampler
    )
    loader = Runner.build_dataloader(cfg, seed=7)
    assert loader.batch_sampler.sampler.seed == 7
    batches = [*loader]
    assert len(batches) == (num_batches or 8)
    assert {len(batch['inputs']) for batch in batches} == {2}
    shapes = {image.shape for batch in batches for image in batch['inputs']}
    assert shapes == {(3, 16, 20)}
