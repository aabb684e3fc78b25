"""A converted config for a folder of images and masks."""

import pytest
from mmengine.config import Config, ConfigDict
from mmseg.datasets import CityscapesDataset

from hmsa_mmseg.datasets.class_names import ClassNames, read_classes
from hmsa_mmseg.zoo import convert, find_config
from hmsa_mmseg.zoo.layout import config_text
from hmsa_mmseg.zoo.own_data import set_folder
from hmsa_mmseg.zoo.sizes import set_crop_size, set_image_scale

CLASSES = read_classes('road,tree,sky')
# Whole images of Cityscapes; windows, and labels that begin with 1.
CONFIGS = (
    'fcn_hr18s_4xb2-40k_cityscapes-512x1024',
    'setr_vit-l_pup_8xb1-80k_cityscapes-768x768',
    'segformer_mit-b0_8xb2-160k_ade20k-512x512',
)

DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'


@pytest.fixture
def folder(tmp_path):
    for kind in ('images', 'masks'):
        for split in ('train', 'val'):
            (tmp_path / kind / split).mkdir(parents=True)
    return tmp_path


def converted(name):
    return convert(Config.fromfile(find_config(name)))


def steps(pipeline):
    return {step['type']: step for step in pipeline}


@pytest.mark.parametrize('name', CONFIGS)
def test_data_labels_and_scores_are_ones_own(name, folder):
    cfg, changes = converted(name)
    set_folder(cfg, str(folder), CLASSES, changes)
    for loader, split in (
        ('train_dataloader', 'train'),
        ('val_dataloader', 'val'),
        ('test_dataloader', 'val'),
    ):
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
    head = cfg.model.decode_head.seg_head
    assert head.num_classes == 3
    assert 'train_dataloader.dataset' in changes


def test_lists_of_names(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'{split}.txt').write_text('a\n')
    cfg, changes = converted(CONFIGS[0])
    set_folder(cfg, str(tmp_path), CLASSES, changes)
    dataset = cfg.val_dataloader.dataset
    assert dataset.ann_file == 'val.txt'
    assert dataset.data_prefix == dict(img_path='images', seg_map_path='masks')


def add_test_folders(root):
    for kind in ('images', 'masks'):
        (root / kind / 'test').mkdir()
    return dict(img_path='images/test', seg_map_path='masks/test'), None


def add_test_list(root):
    (root / 'test.txt').write_text('a\n')
    return dict(img_path='images', seg_map_path='masks'), 'test.txt'


@pytest.mark.parametrize('add', [add_test_folders, add_test_list])
def test_a_test_split_is_tested(add, folder):
    prefix, ann_file = add(folder)
    cfg, changes = converted(CONFIGS[0])
    assert set_folder(cfg, str(folder), CLASSES, changes) == []
    dataset = cfg.test_dataloader.dataset
    assert dataset.data_prefix == prefix
    assert dataset.get('ann_file') == ann_file
    assert cfg.val_dataloader.dataset.data_prefix.img_path == 'images/val'


def test_without_a_test_split_the_comment_says_so(folder):
    # Without masks there is nothing to compare with.
    (folder / 'images/test').mkdir()
    cfg, changes = converted(CONFIGS[0])
    (told,) = set_folder(cfg, str(folder), CLASSES, changes)
    assert told == f'test_dataloader: {changes["test_dataloader"]}'
    text = config_text(cfg, [], changes)
    above = text[: text.index('\ntest_dataloader = val_dataloader')]
    assert above.replace('\n# ', ' ').endswith(
        'the validation split is taken.'
    )


@pytest.mark.parametrize(
    ('given', 'keeps'),
    [
        (dict(type='CityscapesDataset'), True),
        (dict(type='HMSAFolderDataset', classes=('other', 'names')), False),
        (dict(type='BaseSegDataset', metainfo=dict(classes='ab')), False),
        (dict(type='SomebodysDataset'), False),
    ],
)
def test_weights_stay_for_the_same_classes(given, keeps, folder):
    names = CityscapesDataset.METAINFO['classes']
    cfg, changes = converted(DDRNET)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.update(given)
    told = set_folder(cfg, str(folder), ClassNames(names, None), changes)
    losses = cfg.model.decode_head.seg_head.loss_decode
    assert ['class_weight' in one for one in losses] == [keeps, keeps]
    assert any('weights of 19 classes' in one for one in told) != keeps


def test_classes_in_another_order_are_others(folder):
    names = CityscapesDataset.METAINFO['classes'][::-1]
    cfg, changes = converted(DDRNET)
    set_folder(cfg, str(folder), ClassNames(names, None), changes)
    losses = cfg.model.decode_head.seg_head.loss_decode
    assert not any('class_weight' in one for one in losses)


def test_labels_that_were_checked_already(folder):
    cfg, changes = converted(CONFIGS[0])
    load = ConfigDict(
        type='LoadSegLabels', num_classes=19, label_map={18: 255}
    )
    cfg.train_dataloader.dataset.pipeline[1] = load
    set_folder(cfg, str(folder), CLASSES, changes)
    assert load == dict(type='LoadSegLabels', num_classes=3)


def test_another_layout_is_refused(tmp_path):
    cfg, changes = converted(CONFIGS[0])
    with pytest.raises(FileNotFoundError, match=r'images/train/a\.jpg'):
        set_folder(cfg, str(tmp_path), CLASSES, changes)


def test_crops_and_windows_change_together():
    cfg, changes = converted(CONFIGS[1])
    assert cfg.model.test_cfg.crop_size == (768, 768)
    assert cfg.model.test_cfg.stride == (512, 512)
    set_crop_size(cfg, (384, 192), changes)
    crop = steps(cfg.train_dataloader.dataset.pipeline)['RandomCrop']
    assert crop.crop_size == (384, 192)
    assert cfg.model.data_preprocessor.size == (384, 192)
    assert cfg.model.test_cfg.crop_size == (384, 192)
    assert cfg.model.test_cfg.stride == (256, 128)


@pytest.mark.parametrize('name', CONFIGS)
def test_images_are_resized(name):
    cfg, changes = converted(name)
    set_image_scale(cfg, (400, 200), changes)
    train = steps(cfg.train_dataloader.dataset.pipeline)['RandomResize']
    assert train.scale == (400, 200)
    assert train.ratio_range == (0.5, 2.0)
    assert steps(cfg.val_dataloader.dataset.pipeline)['Resize'].scale == (
        400,
        200,
    )
    views = [
        step for group in cfg.tta_pipeline[-1].transforms for step in group
    ]
    assert steps(views)['Resize'].scale == (400, 200)


def test_pidnet_s_sizes_become_a_range():
    cfg, changes = converted('pidnet-s_2xb6-120k_1024x1024-cityscapes')
    set_image_scale(cfg, (400, 200), changes)
    loading = steps(cfg.train_dataloader.dataset.pipeline)
    assert 'RandomChoiceResize' not in loading


def test_classes_are_read(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('road 128 64 128\n\ntraffic light 250 170 30\n')
    assert read_classes(str(path)) == (
        ('road', 'traffic light'),
        [[128, 64, 128], [250, 170, 30]],
    )
    path.write_text('lane 1\nlane 2\n')
    assert read_classes(str(path)) == (('lane 1', 'lane 2'), None)
    assert read_classes(' a, b ') == (('a', 'b'), None)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('road\n', 'two or more'),
        ('road\nroad\n', 'different'),
        ('road 1 2 3\ntree\n', '1 of 2 classes have a colour'),
        ('road 1 2 300\ntree 1 2 3\n', '0 to 255'),
    ],
)
def test_classes_that_make_no_sense(text, message, tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(str(path))
