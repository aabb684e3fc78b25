"""The authors' archive as it unpacks, and the output of our own tool."""

import json

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
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


def test_beside_the_fine_part(cityscapes_extra, write_png):
    stem = 'ulm/ulm_1'
    for folder, suffix, pixels in (
        ('leftImg8bit/train', 'leftImg8bit', np.zeros((32, 64, 3))),
        ('gtFine/train', 'gtFine_labelTrainIds', np.full((32, 64), 3)),
    ):
        write_png(
            cityscapes_extra / folder / f'{stem}_{suffix}.png',
            pixels,
        )
    # One pipeline for both.
    pipeline = [
        *LOAD,
        dict(
            type='MaskOutRegion',
            box=(1, 32, 0, 64),
            ref_size=(32, 64),
            only_with='prob_map_path',
        ),
        dict(type='UniteCoarseLabels'),
        dict(type='ApplyConfidence', threshold=0.9),
        dict(type='RandomResize', scale=(64, 32), ratio_range=(2, 2)),
        dict(type='PackSegInputs'),
    ]
    fine = dict(
        type='HMSACityscapesDataset',
        data_root=str(cityscapes_extra),
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'
        ),
        pipeline=pipeline,
    )
    auto = build(
        cityscapes_extra,
        pipeline=pipeline,
        data_prefix=prefix(coarse_map_path=COARSE),
    )
    both = ConcatDataset([DATASETS.build(fine), auto])
    labels = [s['data_samples'].gt_sem_seg.data.numpy()[0] for s in both]
    assert [label.shape for label in labels] == [(64, 128)] * 3
    assert (labels[0] == 3).all()
    # One sample of ten is sure.
    shares = [(label != 255).mean() for label in labels[1:]]
    assert shares == pytest.approx([0.1, 0.1], abs=0.03)


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


def test_a_teacher_of_other_classes(cityscapes_extra):
    folder = cityscapes_extra / 'refinement_final'
    settings = dict(
        label_format='labelIds',
        label_ids=[26, 28],
        prob='floor255',
        layout='folders',
        classes=['car', 'bus'],
    )
    meta = dict(version=1, teacher={}, settings=settings)
    (folder / 'autolabel_meta.json').write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"have no \['road'.*17 of 19"):
        build(cityscapes_extra)
    # Classes by their names; what the teacher does not know is an error.
    dataset = build(cityscapes_extra, metainfo=dict(classes=('bus', 'car')))
    label_map = dataset.get_data_info(0)['label_map']
    assert (label_map[26], label_map[28], label_map[0]) == (1, 0, 255)
    with pytest.raises(ValueError, match=r'values that are no class: 7 \('):
        dataset[0]
