"""The authors' archive of auto-labels as it unpacks, and its centroids."""

import numpy as np
import pytest
from mmseg.registry import DATASETS
from oracles import labels as authors
from PIL import Image

from hmsa_mmseg.datasets.centroid_index import fingerprint
from hmsa_mmseg.datasets.cityscapes import ID_TO_TRAIN_ID

LOAD = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=19),
]
TO_TRAIN_ID = np.array([ID_TO_TRAIN_ID.get(i, 255) for i in range(256)])
COARSE = 'gtCoarse/train_extra'


def build(root, **kwargs):
    cfg = dict(type='CityscapesAutoLabelDataset', data_root=str(root))
    return DATASETS.build({**cfg, 'pipeline': LOAD, **kwargs})


def prefix(labels='refinement_final/train_extra', **more):
    images = 'leftImg8bit/train_extra'
    return dict(img_path=images, seg_map_path=labels, **more)


def read(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize('classes', [None, ('bus', 'car')])
def test_with_coarse_labels(cityscapes_extra, classes):
    bus = 0 if classes else 15
    unite = dict(type='UniteCoarseLabels', classes=(bus,), required=True)
    dataset = build(
        cityscapes_extra,
        data_prefix=prefix(coarse_map_path=COARSE),
        metainfo=classes and dict(classes=classes),
        pipeline=[*LOAD, unite],
    )
    for sample in dataset:
        path = sample['coarse_map_path']
        assert path.startswith(str(cityscapes_extra / COARSE))
        is_bus = (read(path) == 28) | (read(sample['seg_map_path']) == 28)
        assert np.array_equal(sample['gt_seg_map'] == bus, is_bus)
        assert {*sample['gt_seg_map'].ravel().tolist()} == (
            {0, 1, 255} if classes else {0, 2, 13, 14, 15, 16, 18}
        )


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(coarse_label_format='trainIds'), 'gtCoarse_labelTrainIds'),
        (dict(cities=['ulm']), 'no image of ulm'),
        # Train ids have no void.
        (dict(label_format='trainIds'), r'no class: 26 .*look like the lab'),
    ],
)
def test_faults_are_named(cityscapes_extra, options, match):
    errors = FileNotFoundError, ValueError
    with pytest.raises(errors, match=match) as found:
        build(
            cityscapes_extra,
            data_prefix=prefix(coarse_map_path=COARSE),
            **options,
        )[0]
    # They name a file, and no other is put before it.
    assert 'the data pipeline fails' not in str(found.value)


def test_the_archive_without_the_damaged_image(cityscapes_extra, write_png):
    name = 'troisdorf/troisdorf_000000_000073_leftImg8bit.png'
    for folder in prefix().values():
        path = cityscapes_extra / folder / name
        write_png(path, np.zeros((32, 64)))
        write_png(path.with_name(f'{path.stem}_prob.png'), np.zeros((32, 64)))
    for path in (cityscapes_extra / 'leftImg8bit').rglob('*_prob.png'):
        path.unlink()
    dataset = build(cityscapes_extra)
    assert len(dataset) == 2
    for sample in dataset:
        name = sample['img_path'].split('leftImg8bit/')[1]
        path = cityscapes_extra / 'refinement_final' / name
        assert sample['seg_map_path'] == str(path)
        assert sample['prob_map_path'] == f'{str(path)[:-4]}_prob.png'
        assert 'coarse_map_path' not in sample
        expected = TO_TRAIN_ID[read(path)]
        assert np.array_equal(sample['gt_seg_map'], expected)
    assert len(build(cityscapes_extra, skip_list=())) == 3
    (sample,) = build(cityscapes_extra, cities=['bayreuth'])
    assert 'bayreuth_1_2_leftImg8bit.png' in sample['img_path']


# --- their centroids

UNITE = dict(type='UniteCoarseLabels', classes=(14, 15, 16))
MASK = dict(
    type='MaskOutRegion',
    box=(2, 20, 2, 60),
    ref_size=(32, 64),
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
                data_prefix=prefix(coarse_map_path=COARSE),
                pipeline=[],
                **kwargs,
            ),
        )
    )


def found_in(dataset, sample):
    rows = dataset.class_centroids(16)
    return [(*row[1:],) for row in rows.tolist() if row[0] == sample]


@pytest.mark.parametrize('overlap', [False, True])
def test_centroids_of_united_labels(cityscapes_extra, overlap):
    dataset = wrap(cityscapes_extra, [LOAD[1], UNITE])
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
        [LOAD[1]],
        [LOAD[1], UNITE],
        [LOAD[1], {**UNITE, 'classes': (14, 15)}],
        [LOAD[1], {**APPLY, 'threshold': 0.9}],
        [LOAD[1], {**MASK, 'box': (2, 21, 2, 60)}],
        [LOAD[1], MASK, UNITE, APPLY],
    ]
    names = [name(loader) for loader in loaders]
    assert len({*names}) == len(loaders)
    assert names == [name(loader) for loader in loaders]
    # The same files, read in another way.
    assert name([LOAD[1]], label_format='trainIds') != names[0]

    # Nor do they outlast a change of a file that they depend on.
    for file, step in (
        ('bayreuth*_prob.png', APPLY),
        ('bayreuth*_gtCoarse_labelIds.png', UNITE),
    ):
        (path,) = cityscapes_extra.rglob(file)
        path.write_bytes(path.read_bytes() + b'more')
        before, names = names, [name(loader) for loader in loaders]
        changed = [a != b for a, b in zip(before, names)]
        assert changed == [step['type'] in str(steps) for steps in loaders]
