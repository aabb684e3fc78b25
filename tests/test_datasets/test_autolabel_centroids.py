"""Centroids of auto-labels, and the names of their files."""

import numpy as np
import pytest
from mmseg.registry import DATASETS
from oracles import labels as authors
from PIL import Image

from hmsa_mmseg.datasets.centroid_fingerprint import fingerprint
from hmsa_mmseg.datasets.class_uniform_dataset import ClassUniformDataset

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
