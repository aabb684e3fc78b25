"""A converted config for one's own classes, folder and sizes."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.datasets import CityscapesDataset
from mmseg.registry import MODELS

from hmsa_mmseg.datasets.class_names import ClassNames, read_classes
from hmsa_mmseg.zoo import convert, own_data, single_scale
from hmsa_mmseg.zoo.own_data import set_data_root, set_folder, set_num_classes
from hmsa_mmseg.zoo.sizes import set_crop_size, set_image_scale

CLASSES = read_classes('road,tree,sky')
# Whole images of Cityscapes; windows, and labels that begin with 1.
CONFIGS = (
    'fcn_hr18s_4xb2-40k_cityscapes-512x1024',
    'setr_vit-l_pup_8xb1-80k_cityscapes-768x768',
    'segformer_mit-b0_8xb2-160k_ade20k-512x512',
)
FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
STDC = 'stdc1_4xb12-80k_cityscapes-512x1024'
KNET = 'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512'
OCRNET = 'ocrnet_hr18_4xb4-80k_ade20k-512x512'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


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
        (FCN, 19, []),
        (STDC, 19, [2]),  # the two of its boundaries
        (KNET, 150, []),
        (OCRNET, 150, []),
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
    assert build_small(single.cfg).num_classes == 7


def test_weights_of_other_classes_are_left_out(fresh):
    new = fresh(DDRNET)
    load = ConfigDict(type='LoadSegLabels', num_classes=19)
    new.cfg.train_dataloader.dataset.pipeline[1] = load
    before = dict(new.changes)
    losses = new.cfg.model.decode_head.seg_head.loss_decode
    assert any(len(one.class_weight) == 19 for one in losses)
    set_num_classes(new, 19)
    assert new.changes == before
    assert all(len(one.class_weight) == 19 for one in losses)
    set_num_classes(new, 7)
    assert load.num_classes == 7
    assert not any('class_weight' in one for one in losses)
    for i in range(len(losses)):
        key = f'model.decode_head.seg_head.loss_decode.{i}.class_weight'
        assert new.changes[key] == 'the weights of 19 classes were left out'
    with pytest.raises(ValueError, match='num_classes must be 2 or more'):
        set_num_classes(new, 1)


@pytest.mark.parametrize('weights', [[1.0] * 19, 'weights.npy'])
def test_a_loss_that_needs_weights_becomes_one_without(weights, fresh):
    new = fresh(FCN)
    weighted = dict(type='ClassWeightedCrossEntropyLoss', loss_weight=0.4)
    loss = new.cfg.model.auxiliary_head.loss_decode
    loss.clear()
    loss.update(weighted, class_weight=weights)
    set_num_classes(new, 7)
    key = 'model.auxiliary_head.loss_decode.class_weight'
    assert new.changes[key].startswith('the weights of')
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


@pytest.mark.parametrize('name', CONFIGS)
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
    # There is no test split, and the user reads so.
    assert 'validation split is taken' in new.changes['test_dataloader']


def test_lists_of_names(tmp_path, fresh):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'{split}.txt').write_text('a\n')
    new = fresh(CONFIGS[0])
    set_folder(new, str(tmp_path), CLASSES)
    dataset = new.cfg.val_dataloader.dataset
    assert dataset.ann_file == 'val.txt'
    assert dataset.data_prefix == dict(img_path='images', seg_map_path='masks')


def add_test_folders(root):
    for kind in ('images', 'masks'):
        (root / kind / 'test').mkdir()
    return dict(img_path='images/test', seg_map_path='masks/test'), None


def add_images_alone(root):
    (root / 'images/test').mkdir()
    return dict(img_path='images/val', seg_map_path='masks/val'), None


def add_test_list(root):
    (root / 'test.txt').write_text('a\n')
    return dict(img_path='images', seg_map_path='masks'), 'test.txt'


@pytest.mark.parametrize(
    'add', [add_test_folders, add_test_list, add_images_alone]
)
def test_a_test_split_is_tested(add, folder, fresh):
    prefix, ann_file = add(folder)
    new = fresh(CONFIGS[0])
    set_folder(new, str(folder), CLASSES)
    told = 'test_dataloader' in new.changes
    assert told == (add is add_images_alone)
    dataset = new.cfg.test_dataloader.dataset
    assert dataset.data_prefix == prefix
    assert dataset.get('ann_file') == ann_file
    prefix = new.cfg.val_dataloader.dataset.data_prefix
    assert prefix.img_path == 'images/val'


NAMES = CityscapesDataset.METAINFO['classes']


@pytest.mark.parametrize(
    ('given', 'names', 'keeps'),
    [
        (dict(type='CityscapesDataset'), NAMES, True),
        (dict(type='CityscapesDataset'), NAMES[::-1], False),
        (dict(type='HMSAFolderDataset', classes=('a', 'b')), NAMES, False),
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
    told = any('weights of 19' in text for text in new.changes.values())
    assert told != keeps


def test_labels_that_were_checked_already(folder, fresh):
    new = fresh(CONFIGS[0])
    load = ConfigDict(
        type='LoadSegLabels', num_classes=19, label_map={18: 255}
    )
    new.cfg.train_dataloader.dataset.pipeline[1] = load
    set_folder(new, str(folder), CLASSES)
    assert load == dict(type='LoadSegLabels', num_classes=3)


def test_another_layout_is_refused(tmp_path, fresh, folder):
    new = fresh(CONFIGS[0])
    with pytest.raises(FileNotFoundError, match=r'images/train/a\.jpg'):
        set_folder(new, str(tmp_path / 'images'), CLASSES)
    train = new.cfg.train_dataloader
    train.dataset = dict(type='ConcatDataset', datasets=[train.dataset])
    with pytest.raises(ValueError, match='put together of several'):
        set_folder(new, str(folder), CLASSES)


def test_crops_and_windows_change_together(fresh):
    new = fresh(CONFIGS[1])
    model = new.cfg.model
    assert model.test_cfg.crop_size == (768, 768)
    assert model.test_cfg.stride == (512, 512)
    set_crop_size(new, (384, 192))
    crop = steps(new.cfg.train_dataloader.dataset.pipeline)['RandomCrop']
    assert crop.crop_size == (384, 192)
    assert model.data_preprocessor.size == (384, 192)
    assert model.test_cfg.crop_size == (384, 192)
    assert model.test_cfg.stride == (256, 128)


def test_images_are_resized(fresh):
    new = fresh(CONFIGS[0])
    set_image_scale(new, (400, 200))
    train = steps(new.cfg.train_dataloader.dataset.pipeline)['RandomResize']
    assert train.scale == (400, 200)
    assert train.ratio_range == (0.5, 2.0)
    views = [
        step for group in new.cfg.tta_pipeline[-1].transforms for step in group
    ]
    for pipeline in (new.cfg.val_dataloader.dataset.pipeline, views):
        assert steps(pipeline)['Resize'].scale == (400, 200)


def test_pidnet_s_sizes_become_a_range(fresh):
    new = fresh('pidnet-s_2xb6-120k_1024x1024-cityscapes')
    set_image_scale(new, (400, 200))
    loading = steps(new.cfg.train_dataloader.dataset.pipeline)
    assert 'RandomChoiceResize' not in loading
    assert loading['RandomResize'].scale == (400, 200)


def test_files_and_folders_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r'file nope\.txt does not exist'):
        read_classes('nope.txt')
    with pytest.raises(FileNotFoundError, match='my_dat does not exist'):
        own_data._has_lists(tmp_path / 'my_dat')
