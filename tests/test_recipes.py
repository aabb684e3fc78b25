"""The authors' recipes against their scripts, and on generated images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import set_random_seed
from mmseg.registry import DATASETS, MODELS
from PIL import Image

from hmsa_mmseg.autolabel.config_datasets import leaf_configs
from hmsa_mmseg.datasets.cityscapes import EVALUATED_IDS

ROOT = Path(__file__).parents[1]
HMSA = ROOT / 'configs' / 'hmsa'
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
RECIPE = 'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048'
PRETRAINED = RECIPE.replace('hr48', 'hr48-mapillary-pre')
ONE_GPU = RECIPE.replace('8xb1', '1xb2')
CV = RECIPE.replace('cityscapes', 'cityscapes-cv1')
MAPILLARY = 'hmsa_hr48_ocr_8xb2-rmi-amp-200e_mapillary-1024x1024'
SOTA = (
    'hmsa_hr48-mapillary-pre_ocr_16xb1-rmi-amp-175e_'
    'cityscapes-autolabel-1024x2048'
)
CLEAN = SOTA.replace('autolabel', 'autolabel-clean')
TEACHER = SOTA.replace('175e', '75e').replace('autolabel', 'coarse')
# NVIDIA/semantic-segmentation, scripts/train_cityscapes_sota.yml.
SOTA_HPARAMS = dict(
    bs_trn=1,
    poly_exp=2,
    lr=1e-2,
    max_epoch=175,
    supervised_mscale_loss_wt=0.05,
    coarse_boost_classes='3,4,6,7,9,11,12,13,14,15,16,17,18',
    custom_coarse_dropout_classes='14,15,16',
    custom_coarse_prob=0.5,
)


def load(name):
    return Config.fromfile(HMSA / f'{name}.py')


def build(cfg):
    """Build a model without values and downloads."""
    model = cfg.model.copy()
    model.pretrained = None
    with torch.device('meta'):
        return MODELS.build(model)


@pytest.mark.parametrize(
    ('name', 'num_classes', 'scale_weights'),
    [
        (RECIPE, 19, [0.05]),
        (SOTA, 19, [SOTA_HPARAMS['supervised_mscale_loss_wt']]),
        (MAPILLARY, 65, []),
    ],
)
def test_network_and_losses(name, num_classes, scale_weights):
    model = build(load(name))
    # The authors' HRNet_Mscale has 72,143,430 parameters for 19 classes,
    # among them the biases of two convolutions (512 + 720) that the norm
    # after them voids. A class more has a row in each of two classifiers.
    own = sum(p.numel() for p in model.parameters())
    per_class = (720 + 1) + (512 + 1)
    expected = 72_143_430 - 512 - 720 + (num_classes - 19) * per_class
    assert own == expected

    head = model.decode_head
    aux, main = (seg_head.loss_decode for seg_head in head.seg_heads)
    assert (aux.loss_weight, aux.with_rmi) == (0.4, False)
    assert (main.loss_weight, main.with_rmi) == (1.0, True)
    assert [loss.loss_weight for loss in head.loss_scale] == scale_weights
    assert not any(loss.with_rmi for loss in head.loss_scale)
    ratios = [seg_head.dropout_ratio for seg_head in head.seg_heads]
    assert ratios == [-1, 0.05]
    assert model.num_classes == num_classes


@pytest.mark.parametrize(
    ('name', 'epochs', 'power', 'lr'),
    [
        (RECIPE, 175, 2, 5e-3),
        (
            SOTA,
            SOTA_HPARAMS['max_epoch'],
            SOTA_HPARAMS['poly_exp'],
            SOTA_HPARAMS['lr'],
        ),
        (TEACHER, 75, 2, SOTA_HPARAMS['lr']),
        (MAPILLARY, 200, 1, 5e-3),
    ],
)
def test_learning_rate_of_each_epoch(name, epochs, power, lr):
    cfg = load(name)
    sgd = dict(cfg.optim_wrapper.optimizer)
    assert sgd == dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    (scheduler,) = cfg.param_scheduler
    scheduler = PARAM_SCHEDULERS.build(
        scheduler, default_args=dict(optimizer=optimizer)
    )
    assert cfg.train_cfg.max_epochs == epochs
    for epoch in range(epochs):
        # Their optimizer.py, a step after each epoch.
        expected = lr * (1 - epoch / epochs) ** power
        assert optimizer.param_groups[0]['lr'] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def test_variants_of_the_recipe():
    recipe, one = load(RECIPE), load(ONE_GPU)
    per_image = recipe.optim_wrapper.optimizer.lr / 8
    assert one.train_dataloader.batch_size == 2
    assert one.optim_wrapper.optimizer.lr == pytest.approx(2 * per_image)
    assert one.train_dataloader.drop_last
    for name in (PRETRAINED, SOTA, CLEAN, TEACHER):
        cfg = load(name)
        assert cfg.load_from.endswith('.pth')
        assert cfg.model.pretrained is None
        assert cfg.model.decode_head.reinit_classifier
    cfg = load(CV)
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.cv': 2})
    train = cfg.train_dataloader.dataset.dataset
    assert (train.cv, train.split) == (2, 'train')
    for dataloader in (cfg.val_dataloader, cfg.test_dataloader):
        assert (dataloader.dataset.cv, dataloader.dataset.split) == (1, 'val')


def numbers(text):
    return tuple(int(number) for number in text.split(','))


@pytest.mark.parametrize('name', [SOTA, CLEAN])
def test_auto_labels_are_read_as_the_authors_do(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == SOTA_HPARAMS['bs_trn']
    _, auto = leaf_configs(cfg.train_dataloader.dataset)
    united = numbers(SOTA_HPARAMS['custom_coarse_dropout_classes'])
    load_image, *steps = auto['pipeline'][:5]
    assert load_image == dict(type='LoadImageFromFile')
    # base_loader.py: drop_mask[15:840, 14:2030] of np.zeros((1024, 2048))
    assert steps == [
        dict(type='LoadSegLabels', num_classes=19),
        dict(
            type='MaskOutRegion',
            box=(15, 840, 14, 2030),
            ref_size=(1024, 2048),
        ),
        dict(type='UniteCoarseLabels', classes=united, required=True),
        dict(
            type='ApplyConfidence',
            threshold=SOTA_HPARAMS['custom_coarse_prob'],
            required=True,
        ),
    ]
    fine, *_ = leaf_configs(load(RECIPE).train_dataloader.dataset)
    assert auto['pipeline'][5:] == fine['pipeline'][2:]


@pytest.mark.parametrize('name', [SOTA, CLEAN, TEACHER])
def test_what_is_added_to_the_fine_part(name):
    """Coarse images come in at places of the boosted classes alone."""
    cfg, plain = load(name), load(RECIPE)
    sampler = dict(cfg.train_dataloader.sampler)
    assert sampler.pop('boost') == dict(
        datasets=(1,),
        classes=numbers(SOTA_HPARAMS['coarse_boost_classes']),
        until_epoch=None,  # their max_cu_epoch changes nothing
    )
    assert sampler == plain.train_dataloader.sampler
    fine, coarse = leaf_configs(cfg.train_dataloader.dataset)
    assert [fine] == [*leaf_configs(plain.train_dataloader.dataset)]
    images = coarse['data_prefix']['img_path']
    assert images == 'leftImg8bit/train_extra'
    for split in ('val', 'test'):
        loader = f'{split}_dataloader'
        assert cfg[loader] == plain[loader]


def test_the_clean_recipe_differs_in_labels_and_in_what_watches_them():
    sota, clean = load(SOTA).to_dict(), load(CLEAN).to_dict()
    for cfg, folder in (
        (sota, 'refinement_final/train_extra'),
        (clean, 'autolabel/round_1'),
    ):
        assert (
            cfg['autolabel_dataset']
            == (cfg['train_dataloader']['dataset']['dataset']['datasets'][1])
        )
        prefix = cfg.pop('autolabel_dataset')['data_prefix']
        assert prefix['seg_map_path'] == folder
        cfg['train_dataloader']['dataset']['dataset']['datasets'].pop()
        assert cfg['custom_hooks'].pop()['type'] == 'TeacherLeakageHook'
    assert sota == clean


def test_the_teacher_has_not_seen_val_but_the_published_labels_have():
    teacher, sota = load(TEACHER), load(SOTA)
    assert teacher.model == sota.model
    paths = str([*leaf_configs(teacher.train_dataloader.dataset)])
    assert 'gtCoarse/train_extra' in paths
    assert 'val' not in paths
    hook, val = sota.custom_hooks[-1], sota.val_dataloader.dataset
    prefixes = [one.data_prefix.img_path for one in hook.saw]
    assert prefixes == ['leftImg8bit/train', 'leftImg8bit/val']
    assert hook.saw[1].data_root == val.data_root
    assert hook.saw[1].data_prefix == val.data_prefix


def test_cross_validation_with_auto_labels():
    cfg = load(CLEAN)
    # As the README says.
    readme = (HMSA / 'README.md').read_text()
    (block,) = [
        block for block in readme.split('```') if 'datasets.0.cv=' in block
    ]
    options = dict(
        word.split('=', 1) for word in block.split() if '_dataloader.' in word
    )
    cfg.merge_from_dict(
        {k: int(v) if v.isdecimal() else v for k, v in options.items()}
    )
    fine, auto = leaf_configs(cfg.train_dataloader.dataset)
    assert (fine['cv'], fine['data_prefix']['img_path']) == (1, 'leftImg8bit')
    assert fine.get('split', 'train') == 'train'
    assert 'cv' not in auto
    for split in ('val', 'test'):
        (scored,) = leaf_configs(cfg[f'{split}_dataloader'].dataset)
        assert (scored['cv'], scored['split']) == (1, 'val')
        assert scored['data_prefix'] == fine['data_prefix']


# ------------------------------------------------------------ on images


# What the names of a data set's files end in.
SUFFIXES = {
    'HMSACityscapesDataset': dict(
        img_path='_leftImg8bit.png', seg_map_path='_gtFine_labelTrainIds.png'
    ),
    'CityscapesCoarseDataset': dict(
        img_path='_leftImg8bit.png', seg_map_path='_gtCoarse_labelIds.png'
    ),
    'CityscapesAutoLabelDataset': dict(
        img_path='_leftImg8bit.png',
        seg_map_path='_leftImg8bit.png',
        coarse_map_path='_gtCoarse_labelIds.png',
    ),
    'HMSAMapillaryDataset': dict(img_path='.jpg', seg_map_path='.png'),
    'HMSACamVidDataset': dict(img_path='.png', seg_map_path='.png'),
}
# Folders of a split, as the data unpack.
FOLDERS = {
    'HMSAMapillaryDataset': ('{}/images', '{}/v1.2/labels'),
    'HMSACamVidDataset': ('{}', '{}annot'),
}


@pytest.fixture
def make_data(tmp_path):
    """Return a function that writes a pair for each city or split."""

    def make(dataset, label, image_size):
        suffixes = SUFFIXES.get(
            dataset['type'], SUFFIXES['HMSACityscapesDataset']
        )
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*image_size, 3), dtype=np.uint8)
        pixels = dict(img_path=image, seg_map_path=label)
        if 'labelIds' in str(suffixes):
            ids = np.zeros(256, np.uint8)
            ids[[*range(19)]] = EVALUATED_IDS
            pixels['seg_map_path'] = pixels['coarse_map_path'] = ids[label]
        prefix = dataset.get('data_prefix')
        if prefix is None:
            folders = FOLDERS[dataset['type']]
            prefix = {
                key: folder.format(dataset['split'])
                for key, folder in zip(pixels, folders)
            }
        for key, folder in prefix.items():
            path = tmp_path / folder / f'a{suffixes[key]}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[key]).save(path)
            if 'coarse_map_path' in suffixes and key == 'seg_map_path':
                sure = Image.fromarray(np.full(image_size, 255, np.uint8))
                sure.save(path.with_name(f'{path.stem}_prob.png'))
        dataset['data_root'] = str(tmp_path)

    return make


def label_of(size, other=13):
    """One quarter unlabelled, one of class 0, the others of another one."""
    label = np.full(size, other, np.uint8)
    half_h, half_w = size[0] // 2, size[1] // 2
    label[:half_h, :half_w] = 255
    label[half_h:, half_w:] = 0
    return label


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_pipelines_on_images(path, make_data):
    set_random_seed(0)  # a crop may hold the unlabelled quarter alone
    cfg = Config.fromfile(path)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    for split in ('train', 'val'):
        for dataset in leaf_configs(cfg[f'{split}_dataloader'].dataset):
            is_mapillary = dataset['type'] == 'HMSAMapillaryDataset'
            size = (60, 80) if is_mapillary else (64, 128)
            dataset.pop('cv', None)  # all cities would have to be there
            # CamVid has 11 classes.
            other = 10 if dataset['type'] == 'HMSACamVidDataset' else 13
            make_data(dataset, label_of(size, other), size)
            dataset = DATASETS.build(dataset)
            (sample,) = dataset
            sample = preprocessor(pseudo_collate([sample]), split == 'train')
            found = sample['data_samples'][0].gt_sem_seg.data
            # The demo has a part of the classes, with numbers of their own.
            names = [dataset.METAINFO['classes'][i] for i in (0, other)]
            classes = {
                dataset.metainfo['classes'].index(name) for name in names
            }
            if split == 'train':
                assert sample['inputs'].shape[2:] == cfg.crop_size
                assert found.shape[1:] == cfg.crop_size
                assert set(found.unique().tolist()) <= {*classes, 255}
                assert classes & set(found.unique().tolist())
            else:
                # Labels at the size of the file, or at the authors' long
                # edge.
                assert max(found.shape) == (2177 if is_mapillary else 128)
                assert set(found.unique().tolist()) == {*classes, 255}


@pytest.mark.parametrize(
    'path',
    [path for path in CONFIGS if path.stem.endswith('mapillary-1024x1024')],
    ids=lambda path: path.stem,
)
def test_mapillary_at_the_size_of_the_files(path, make_data):
    """One option, also with the pipeline that `test.py --tta` puts in."""
    cfg = Config.fromfile(path)
    # Nothing else makes it possible to score 24 megapixels.
    assert cfg.tta_model.type == 'AccumulatingTTAModel'
    is_stock = cfg.model.type == 'EncoderDecoder'
    assert cfg.model.test_cfg.get('classes_only', False) != is_stock
    cfg.merge_from_dict({'test_dataloader.dataset.scored_at': 'file'})
    dataset = cfg.test_dataloader.dataset
    label = label_of((60, 80))
    make_data(dataset, label, (60, 80))
    for pipeline in (cfg.test_pipeline, cfg.tta_pipeline):
        dataset.pipeline = pipeline
        (sample,) = DATASETS.build(dataset)
        inputs, found = sample['inputs'], sample['data_samples']
        if pipeline is cfg.tta_pipeline:
            inputs, found = inputs[0], found[0]
        assert max(inputs.shape) == 2177
        assert found.ori_shape == (60, 80)
        np.testing.assert_array_equal(found.gt_sem_seg.data[0], label)
