"""A converted config for one's own classes, folder and sizes."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.datasets import CityscapesDataset
from mmseg.registry import MODELS
from PIL import Image

from hmsa_mmseg.datasets.class_names import ClassNames, read_classes
from hmsa_mmseg.zoo import convert, single_scale
from hmsa_mmseg.zoo.own_data import set_data_root, set_folder, set_num_classes
from hmsa_mmseg.zoo.sizes import (
    note_small_images,
    set_crop_size,
    set_image_scale,
)

CLASSES = read_classes('road,tree,sky')
# Whole images; windows; labels that begin with 1.
HR18 = 'fcn_hr18s_4xb2-40k_cityscapes-512x1024'
SETR = 'setr_vit-l_pup_8xb1-80k_cityscapes-768x768'
SEGFORMER = 'segformer_mit-b0_8xb2-160k_ade20k-512x512'
FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
STDC = 'stdc1_4xb12-80k_cityscapes-512x1024'
KNET = 'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
NAMES = CityscapesDataset.METAINFO['classes']


@pytest.fixture
def folder(tmp_path):
    for kind in ('images', 'masks'):
        for split in ('train', 'val'):
            (tmp_path / kind / split).mkdir(parents=True)
    return tmp_path


def steps(pipeline):
    return {step['type']: step for step in pipeline}


def numbers_of(value):
    """All settings `num_classes` below a value."""
    if isinstance(value, dict):
        own = [value['num_classes']] if 'num_classes' in value else []
        return own + [n for one in value.values() for n in numbers_of(one)]
    if isinstance(value, (list, tuple)):
        return [n for one in value for n in numbers_of(one)]
    return []


@pytest.mark.parametrize(
    ('name', 'old', 'kept'),
    [
        (STDC, 19, [2]),  # the two of its boundaries
        (KNET, 150, []),
    ],
)
def test_num_classes(name, old, kept, zoo_config, build_small):
    new = convert(zoo_config(name))
    before = numbers_of(new.cfg.model)
    set_num_classes(new, 7)
    after = numbers_of(new.cfg.model)
    assert before.count(old) == after.count(7) > 0
    assert [number for number in after if number != 7] == kept
    text = new.changes['model.decode_head.seg_head.num_classes']
    assert text == f'7, was {old}'
    assert build_small(new.cfg).num_classes == 7
    # And of the zoo's own model.
    single = single_scale(zoo_config(name))
    set_num_classes(single, 7)
    assert numbers_of(single.cfg.model) == after


def test_weights_of_other_classes_are_left_out(fresh):
    new = fresh(DDRNET)
    load = ConfigDict(type='LoadSegLabels', num_classes=19)
    new.cfg.train_dataloader.dataset.pipeline[1] = load
    before = dict(new.changes)
    losses = new.cfg.model.decode_head.seg_head.loss_decode
    set_num_classes(new, 19)
    assert new.changes == before
    assert all(len(one.class_weight) == 19 for one in losses)
    set_num_classes(new, 7)
    assert load.num_classes == 7
    assert not any('class_weight' in one for one in losses)
    key = 'model.decode_head.seg_head.loss_decode.1.class_weight'
    assert new.changes[key] == 'the weights of 19 classes were left out'
    with pytest.raises(ValueError, match='num_classes must be 2 or more'):
        set_num_classes(new, 1)


def test_a_loss_that_needs_weights_becomes_one_without(fresh):
    new = fresh(FCN)
    weighted = dict(type='ClassWeightedCrossEntropyLoss', loss_weight=0.4)
    loss = new.cfg.model.auxiliary_head.loss_decode
    loss.clear()
    loss.update(weighted, class_weight='weights.npy')
    set_num_classes(new, 7)
    key = 'model.auxiliary_head.loss_decode.class_weight'
    assert 'in weights.npy were left out' in new.changes[key]
    weighted = MODELS.build(dict(weighted, class_weight=[1.0] * 7))
    logits, labels = torch.randn(2, 7, 4, 4), torch.randint(7, (2, 4, 4))
    labels[:, :2] = 255
    found, expected = (
        one(logits, labels, ignore_index=255)
        for one in (MODELS.build(loss), weighted)
    )
    torch.testing.assert_close(found, expected)


def test_data_root(fresh):
    new = fresh(FCN)
    set_data_root(new, '/some/where')
    for loader in LOADERS:
        assert new.cfg[loader].dataset.data_root == '/some/where'
    text = new.changes['data_root']
    assert text == '/some/where, was data/cityscapes/'
    new.cfg.val_dataloader.dataset.data_root = 'elsewhere'
    with pytest.raises(ValueError, match=r"\['/some/where', 'elsewhere'\]"):
        set_data_root(new, 'other')


@pytest.mark.parametrize('name', [HR18, SEGFORMER])
def test_data_labels_and_scores_are_ones_own(name, fresh, folder):
    new = fresh(name)
    cfg = new.cfg
    set_folder(new, str(folder), CLASSES)
    for loader, split in zip(LOADERS, ('train', 'val', 'val')):
        dataset = cfg[loader].dataset
        assert dataset.type == 'HMSAFolderDataset'
        assert dataset.classes == ('road', 'tree', 'sky')
        assert dataset.data_root == str(folder)
        assert dataset.data_prefix == dict(
            img_path=f'images/{split}', seg_map_path=f'masks/{split}'
        )
        loading = steps(dataset.pipeline)
        # No reduce_zero_label of ADE20K.
        assert loading['LoadSegLabels'] == dict(
            type='LoadSegLabels', num_classes=3
        )
        assert 'LoadAnnotations' not in loading
        assert loading.keys() >= {'LoadImageFromFile', 'PackSegInputs'}
    views = cfg.tta_pipeline[-1].transforms
    assert [dict(type='LoadSegLabels', num_classes=3)] in views
    assert cfg.val_evaluator.type == 'IoUMetric'
    assert cfg.model.decode_head.seg_head.num_classes == 3
    assert 'train_dataloader.dataset' in new.changes


@pytest.mark.parametrize(
    ('folders', 'names', 'where', 'ann_file'),
    [
        (['images/test', 'masks/test'], ['test.txt'], '/test', None),
        # Images alone are no test split: that of validation is taken.
        (['images/test'], [], '/val', None),
        ([], ['test.txt'], '', 'test.txt'),
    ],
)
def test_splits(folders, names, where, ann_file, folder, fresh):
    for name in folders:
        (folder / name).mkdir()
    for name in names:
        (folder / name).write_text('a\n')
    new = fresh(HR18)
    set_folder(new, str(folder), CLASSES)
    dataset = new.cfg.test_dataloader.dataset
    assert dataset.data_prefix == dict(
        img_path=f'images{where}', seg_map_path=f'masks{where}'
    )
    assert dataset.get('ann_file') == ann_file
    # The user reads so.
    is_val = new.cfg.val_dataloader.dataset.data_prefix == dataset.data_prefix
    said = new.changes.get('test_dataloader', '')
    assert ('validation split is taken' in said) == is_val


def test_lists_of_names(tmp_path, fresh):
    for kind in ('images', 'masks'):
        (tmp_path / kind).mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'{split}.txt').write_text('a\n')
    new = fresh(HR18)
    set_folder(new, str(tmp_path), CLASSES)
    dataset = new.cfg.val_dataloader.dataset
    assert dataset.ann_file == 'val.txt'
    assert dataset.data_prefix == dict(img_path='images', seg_map_path='masks')


@pytest.mark.parametrize(
    ('given', 'names', 'keeps'),
    [
        (dict(type='CityscapesDataset'), NAMES, True),
        (dict(type='CityscapesDataset'), NAMES[::-1], False),
        (dict(type='BaseSegDataset', metainfo=dict(classes=NAMES)), NAMES, 1),
        (dict(type='SomebodysDataset'), NAMES, False),
    ],
)
def test_weights_stay_for_the_same_classes(given, names, keeps, folder, fresh):
    new = fresh(DDRNET)
    for loader in LOADERS:
        new.cfg[loader].dataset.update(given)
    set_folder(new, str(folder), ClassNames(names, None))
    losses = new.cfg.model.decode_head.seg_head.loss_decode
    assert ['class_weight' in one for one in losses] == [keeps, keeps]


def test_another_layout_is_refused(tmp_path, fresh, folder):
    for name, match in (
        ('images', r'images/train/a\.jpg'),
        ('my_dat', 'my_dat does not exist'),
    ):
        with pytest.raises(FileNotFoundError, match=match):
            set_folder(fresh(HR18), str(tmp_path / name), CLASSES)
    new = fresh(HR18)
    train = new.cfg.train_dataloader
    train.dataset = dict(type='ConcatDataset', datasets=[train.dataset])
    with pytest.raises(ValueError, match='put together of several'):
        set_folder(new, str(folder), CLASSES)


def test_crops_and_windows_change_together(fresh):
    new = fresh(SETR)
    model = new.cfg.model
    assert model.test_cfg.crop_size == (768, 768)
    assert model.test_cfg.stride == (512, 512)
    set_crop_size(new, (384, 192))
    crop = steps(new.cfg.train_dataloader.dataset.pipeline)['RandomCrop']
    assert crop.crop_size == (384, 192)
    assert model.data_preprocessor.size == (384, 192)
    assert model.test_cfg.crop_size == (384, 192)
    assert model.test_cfg.stride == (256, 128)


# PIDNet's list of sizes becomes a range.
@pytest.mark.parametrize(
    'name', [HR18, 'pidnet-s_2xb6-120k_1024x1024-cityscapes']
)
def test_images_are_resized(name, fresh):
    new = fresh(name)
    set_image_scale(new, (400, 200))
    train = steps(new.cfg.train_dataloader.dataset.pipeline)
    assert 'RandomChoiceResize' not in train
    assert train['RandomResize'].scale == (400, 200)
    assert train['RandomResize'].ratio_range == (0.5, 2.0)
    views = [
        step for group in new.cfg.tta_pipeline[-1].transforms for step in group
    ]
    for pipeline in (new.cfg.val_dataloader.dataset.pipeline, views):
        assert steps(pipeline)['Resize'].scale == (400, 200)


@pytest.mark.parametrize(
    ('size', 'scale', 'crop', 'said'),
    [
        ((192, 96), None, None, 'is enlarged 10.7 times, to 2048 x 1024'),
        ((192, 96), (192, 96), None, 'the crop is 1024 x 512'),
        ((192, 96), (192, 96), (64, 128), None),
        ((1600, 900), None, None, None),
    ],
)
def test_small_images_are_noted(folder, zoo_config, size, scale, crop, said):
    Image.new('RGB', size).save(folder / 'images/train/a.png')
    new = convert(zoo_config(HR18))
    set_folder(new, str(folder), CLASSES)
    if scale:
        set_image_scale(new, scale)
    if crop:
        set_crop_size(new, crop)
    note_small_images(new, str(folder))
    note = new.changes.get('small images')
    assert said in note if said else note is None
