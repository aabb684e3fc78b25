"""Class-uniform sampling from auto-labels: as the preset does, and fairly."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATA_SAMPLERS, DATASETS
from oracles import labels as authors
from PIL import Image

from hmsa_mmseg.datasets.centroid_fingerprint import fingerprint
from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS, ID_TO_TRAIN_ID
from hmsa_mmseg.datasets.class_uniform_dataset import ClassUniformDataset

CONFIGS = Path(__file__).parents[2] / 'configs'
PRESET = CONFIGS / '_base_/datasets/cityscapes_autolabel_1024x2048.py'
BOOSTED = (3, 4, 6, 7, 9, 11, 12, 13, 14, 15, 16, 17, 18)
SIZE = (32, 64)
COARSE = 'gtCoarse/train_extra'
PREFIX = dict(
    img_path='leftImg8bit/train_extra',
    seg_map_path='refinement_final/train_extra',
    coarse_map_path=COARSE,
)
LOAD = dict(type='LoadSegLabels', num_classes=19)
UNITE = dict(type='UniteCoarseLabels', classes=(14, 15, 16))
MASK = dict(
    type='MaskOutRegion',
    box=(2, 20, 2, 60),
    ref_size=SIZE,
    only_with='prob_map_path',
)
APPLY = dict(type='ApplyConfidence', threshold=0.5)


def wrap(root, loader, **kwargs):
    return DATASETS.build(
        dict(
            type='ClassUniformDataset',
            label_loader=loader,
            dataset=dict(
                type='CityscapesAutoLabelDataset',
                data_root=str(root),
                data_prefix=PREFIX,
                pipeline=[],
                **kwargs,
            ),
        )
    )


def read(path):
    return np.array(Image.open(path))


def found_in(dataset, sample):
    rows = dataset.class_centroids(16)
    return [(*row[1:],) for row in rows.tolist() if row[0] == sample]


@pytest.mark.parametrize('overlap', [False, True])
def test_centroids_of_united_labels(cityscapes_extra, overlap):
    dataset = wrap(cityscapes_extra, [LOAD, UNITE])
    for k in range(2):
        info = dataset.get_data_info(k)
        label, coarse = (
            read(info[key]) for key in ('seg_map_path', 'coarse_map_path')
        )
        if not overlap:
            # Vehicles of the coarse label on none of the classes after them.
            coarse[(label >= 28) & (coarse < label)] = 0
            Image.fromarray(coarse).save(info['coarse_map_path'])
        found = found_in(dataset, k)
        united = authors.label_for_centroids(label, coarse, (14, 15, 16))
        # Where they overlap, a bicycle that training takes for the truck of
        # the coarse label stays a bicycle in the authors' centroids. Here
        # centroids are those of the label that is trained on.
        assert (found == authors.centroids(united, 16)) != overlap
        trained = authors.read_images(label, coarse, (14, 15, 16))
        assert found == authors.centroids(trained, 16)
        alone = authors.read_images(label, coarse, ())
        assert found != authors.centroids(alone, 16)


def test_files_of_centroids_follow_the_settings(cityscapes_extra):
    def name(loader, **kwargs):
        labels, _ = wrap(cityscapes_extra, loader, **kwargs).labels(16)
        return fingerprint(labels)

    loaders = [
        [LOAD],
        [LOAD, UNITE],
        [LOAD, {**UNITE, 'classes': (14, 15)}],
        [LOAD, {**UNITE, 'only_if_present': False}],
        [LOAD, APPLY],
        [LOAD, {**APPLY, 'threshold': 0.9}],
        [LOAD, MASK],
        [LOAD, {**MASK, 'box': (2, 21, 2, 60)}],
        [LOAD, MASK, UNITE, APPLY],
    ]
    names = [name(loader) for loader in loaders]
    assert len({*names}) == len(loaders)
    assert names == [name(loader) for loader in loaders]
    # The same files, read in another way.
    assert name([LOAD], label_format='trainIds') != names[0]

    def change(path):
        path.write_bytes(path.read_bytes() + b'more')

    (prob,) = cityscapes_extra.rglob('bayreuth*_prob.png')
    change(prob)
    changed = [name(loader) for loader in loaders]
    reads_prob = [a != b for a, b in zip(names, changed)]
    assert reads_prob == [APPLY['type'] in str(loader) for loader in loaders]

    (coarse,) = cityscapes_extra.rglob('bayreuth*_gtCoarse_labelIds.png')
    change(coarse)
    again = [name(loader) for loader in loaders]
    reads_coarse = [a != b for a, b in zip(changed, again)]
    assert reads_coarse == [UNITE['type'] in str(loader) for loader in loaders]


def load_nothing(results):
    return results


def test_other_data_sets_keep_their_files(tmp_path, set_cfg):
    for folder in ('img', 'ann'):
        (tmp_path / folder).mkdir()
        for k in range(3):
            (tmp_path / folder / f'{k}.png').write_bytes(b'x' * k)
    dataset = DATASETS.build(set_cfg(tmp_path, pipeline=[]))
    dataset = ClassUniformDataset(dataset, label_loader=[load_nothing])
    # As before there were auto-labels.
    assert fingerprint(dataset.labels(64)[0]) == 'a171231c49bd1236'


@pytest.fixture
def preset(cityscapes_extra, write_png, tmp_path):
    """The preset, with 20 fine images, one of each class and one of none."""
    for k, value in enumerate((*EVALUATED_IDS, 0)):
        stem = f'ulm/ulm_{k:02d}'
        for folder, suffix, pixels in (
            ('leftImg8bit', 'leftImg8bit', np.zeros((*SIZE, 3))),
            (
                'gtFine',
                'gtFine_labelTrainIds',
                np.full(SIZE, ID_TO_TRAIN_ID[value]),
            ),
        ):
            path = cityscapes_extra / folder / f'train/{stem}_{suffix}.png'
            write_png(path, pixels)
    cfg = Config.fromfile(PRESET)
    loader = cfg.train_dataloader
    for part in loader.dataset.dataset.datasets:
        part.data_root = str(cityscapes_extra)
        part.pipeline[-5].scale = (64, 32)
        part.pipeline[-4].crop_size = SIZE
    loader.sampler.pct = 1.0
    loader.sampler.cache_dir = str(tmp_path / 'cache')
    return cfg


def test_boost_of_the_preset(preset):
    loader = preset.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    assert len(dataset) == 20 + 2
    sampler = DATA_SAMPLERS.build(
        loader.sampler, default_args=dict(dataset=dataset, seed=0)
    )
    # An epoch is as long as the fine part; one of each class, and one image.
    assert len(sampler) == 20
    boosted = set()
    # `until_epoch=None`: to the end, as in the authors' run.
    for epoch in (*range(60), 174):
        plan = sampler.plan(epoch)
        assert sorted(plan[:, 3].tolist()) == [-1, *range(19)]
        extra = plan[plan[:, 0] >= 20]
        boosted |= {*extra[:, 3].tolist()}
    assert {dataset[index]['inputs'].shape for index in sampler} == {
        (3, *SIZE)
    }
    # Those of the auto-labelled images that are boosted: not road and
    # building, and none as an image alone.
    assert boosted == {13, 14, 15, 16, 18} < {*BOOSTED}
    assert preset.boosted_classes == BOOSTED
