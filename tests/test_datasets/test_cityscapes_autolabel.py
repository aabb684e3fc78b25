"""The authors' archive as it unpacks, and the output of our own tool."""

import numpy as np
import pytest
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS
from PIL import Image

from hmsa_mmseg.autolabel.meta import write_meta
from hmsa_mmseg.datasets.autolabel_files import label_file, prob_file
from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS, ID_TO_TRAIN_ID
from hmsa_mmseg.datasets.confidence import encode_confidence

CLASSES = CityscapesDataset.METAINFO['classes']
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


def test_the_archive(cityscapes_extra):
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


@pytest.mark.parametrize(
    ('coarse', 'classes'),
    [(COARSE, None), ('gtCoarse/gtCoarse/train_extra', ('bus', 'car'))],
)
def test_with_coarse_labels(cityscapes_extra, coarse, classes):
    if coarse != COARSE:
        target = cityscapes_extra / coarse
        target.parent.mkdir()
        (cityscapes_extra / COARSE).rename(target)
    bus = 0 if classes else 15
    unite = dict(type='UniteCoarseLabels', classes=(bus,), required=True)
    dataset = build(
        cityscapes_extra,
        data_prefix=prefix(coarse_map_path=coarse),
        metainfo=classes and dict(classes=classes),
        pipeline=[*LOAD, unite],
    )
    for sample in dataset:
        path = sample['coarse_map_path']
        assert path.startswith(str(cityscapes_extra / coarse))
        is_bus = (read(path) == 28) | (read(sample['seg_map_path']) == 28)
        assert np.array_equal(sample['gt_seg_map'] == bus, is_bus)
        assert {*sample['gt_seg_map'].ravel().tolist()} == (
            {0, 1, 255} if classes else {0, 2, 13, 14, 15, 16, 18}
        )


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(coarse_label_format='trainIds'), 'gtCoarse_labelTrainIds'),
        (dict(coarse_label_format='x'), "label_format='x'"),
        (dict(cities=['ulm']), 'no image of ulm'),
        # Train ids have no void.
        (dict(label_format='trainIds'), r'no class: 26 .*look like the lab'),
    ],
)
def test_faults_are_named(cityscapes_extra, options, match):
    with pytest.raises((FileNotFoundError, ValueError), match=match):
        build(
            cityscapes_extra,
            data_prefix=prefix(coarse_map_path=COARSE),
            **options,
        )[0]


def test_cities_and_the_damaged_image(cityscapes_extra, write_png):
    name = 'troisdorf/troisdorf_000000_000073_leftImg8bit.png'
    for folder in prefix().values():
        path = cityscapes_extra / folder / name
        write_png(path, np.zeros((32, 64)))
        write_png(path.with_name(f'{path.stem}_prob.png'), np.zeros((32, 64)))
    for path in (cityscapes_extra / 'leftImg8bit').rglob('*_prob.png'):
        path.unlink()
    assert len(build(cityscapes_extra)) == 2
    assert len(build(cityscapes_extra, skip_list=())) == 3
    (sample,) = build(cityscapes_extra, cities=['bayreuth'])
    assert 'bayreuth_1_2_leftImg8bit.png' in sample['img_path']


@pytest.mark.parametrize(
    ('label_format', 'layout'),
    [('labelIds', 'folders'), ('trainIds', 'authors-flat')],
)
def test_from_a_teachers_probabilities_and_back(
    cityscapes_extra, write_png, label_format, layout
):
    values = EVALUATED_IDS if label_format == 'labelIds' else range(19)
    rng = np.random.default_rng(3)
    out = cityscapes_extra / 'out'
    expected = []
    images = cityscapes_extra / 'leftImg8bit'
    for path in sorted(images.rglob('*.png')):
        name = path.relative_to(images).with_suffix('').as_posix()
        logits = rng.normal(0, 2, (19, 32, 64)).astype(np.float32)
        probs = np.exp(logits) / np.exp(logits).sum(0)
        confidence, classes = probs.max(0), probs.argmax(0)
        write_png(out / label_file(name, layout), np.array(values)[classes])
        write_png(out / prob_file(name, layout), encode_confidence(confidence))
        sure = np.floor(confidence * np.float32(255)) / 255 >= 0.3
        expected.append(np.where(sure, classes, 255))
    settings = dict(
        label_format=label_format,
        label_ids=[*values],
        prob='floor255',
        layout=layout,
        classes=CLASSES,
        palette=CityscapesDataset.METAINFO['palette'],
    )
    write_meta(out, dict(version=1, teacher={}, settings=settings))
    # The tool was given the folder above train_extra.
    labels = 'out' if layout == 'authors-flat' else 'out/train_extra'
    apply = dict(type='ApplyConfidence', threshold=0.3, required=True)
    dataset = build(
        cityscapes_extra,
        data_prefix=prefix(labels),
        pipeline=[*LOAD, apply],
    )
    found = [sample['gt_seg_map'] for sample in dataset]
    assert np.array_equal(found, expected)
    assert 0.2 < (np.array(found) != 255).mean() < 0.9
