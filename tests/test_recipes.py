"""The authors' recipes against their scripts, and on generated images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import DATASETS, MODELS
from PIL import Image

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
    [(RECIPE, 19, [0.05]), (MAPILLARY, 65, [])],
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
    losses = [aux, main, *head.loss_scale]
    assert [loss.num_classes for loss in losses] == [num_classes] * len(losses)
    ratios = [seg_head.dropout_ratio for seg_head in head.seg_heads]
    assert ratios == [-1, 0.05]
    assert model.num_classes == num_classes


def test_evaluates_weights_of_65_classes():
    cfg = load(RECIPE)
    cfg.merge_from_dict({'model.decode_head.num_classes': 65})
    heads = build(cfg).decode_head.seg_heads
    assert [head.conv_seg.out_channels for head in heads] == [65, 65]


@pytest.mark.parametrize(
    ('name', 'epochs', 'power'), [(RECIPE, 175, 2), (MAPILLARY, 200, 1)]
)
def test_learning_rate_of_each_epoch(name, epochs, power):
    cfg = load(name)
    sgd = dict(cfg.optim_wrapper.optimizer)
    assert sgd == dict(type='SGD', lr=5e-3, momentum=0.9, weight_decay=1e-4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-3)
    (scheduler,) = cfg.param_scheduler
    scheduler = PARAM_SCHEDULERS.build(
        scheduler, default_args=dict(optimizer=optimizer)
    )
    assert cfg.train_cfg.max_epochs == epochs
    for epoch in range(epochs):
        # Their optimizer.py, a step after each epoch.
        expected = 5e-3 * (1 - epoch / epochs) ** power
        assert optimizer.param_groups[0]['lr'] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def test_one_gpu_scales_the_learning_rate_with_the_batch():
    recipe, one = load(RECIPE), load(ONE_GPU)
    per_image = recipe.optim_wrapper.optimizer.lr / 8
    assert one.train_dataloader.batch_size == 2
    assert one.optim_wrapper.optimizer.lr == pytest.approx(2 * per_image)
    assert one.train_dataloader.drop_last


def test_pretrained_start():
    cfg = load(PRETRAINED)
    assert cfg.load_from.endswith('.pth')
    assert cfg.model.pretrained is None
    assert cfg.model.decode_head.reinit_classifier


def test_cross_validation_split():
    cfg = load(CV)
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.cv': 2})
    train = cfg.train_dataloader.dataset.dataset
    assert (train.cv, train.split) == (2, 'train')
    for dataloader in (cfg.val_dataloader, cfg.test_dataloader):
        assert (dataloader.dataset.cv, dataloader.dataset.split) == (1, 'val')


# ------------------------------------------------------------ on images


@pytest.fixture
def make_data(tmp_path):
    """Return a function that writes a pair for each city or split."""

    def make(dataset, label, image_size):
        prefix = dataset.data_prefix
        is_mapillary = dataset.type == 'HMSAMapillaryDataset'
        suffixes = dict(
            img_path='_leftImg8bit.png',
            seg_map_path='_gtFine_labelTrainIds.png',
        )
        if is_mapillary:
            suffixes = dict(img_path='.jpg', seg_map_path='.png')
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*image_size, 3), dtype=np.uint8)
        pixels = dict(img_path=image, seg_map_path=label)
        for key, folder in prefix.items():
            path = tmp_path / folder / f'a{suffixes[key]}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[key]).save(path)
        dataset.data_root = str(tmp_path)

    return make


def innermost(dataset):
    return innermost(dataset.dataset) if 'dataset' in dataset else dataset


def label_of(size):
    """One quarter unlabelled, one of class 0, the others of class 13."""
    label = np.full(size, 13, np.uint8)
    half_h, half_w = size[0] // 2, size[1] // 2
    label[:half_h, :half_w] = 255
    label[half_h:, half_w:] = 0
    return label


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_pipelines_on_images(path, make_data):
    cfg = Config.fromfile(path)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    for split in ('train', 'val'):
        dataset = innermost(cfg[f'{split}_dataloader'].dataset)
        is_mapillary = dataset.type == 'HMSAMapillaryDataset'
        size = (60, 80) if is_mapillary else (64, 128)
        dataset.pop('cv', None)  # all cities would have to be there
        make_data(dataset, label_of(size), size)
        dataset = DATASETS.build(dataset)
        (sample,) = dataset
        sample = preprocessor(pseudo_collate([sample]), split == 'train')
        found = sample['data_samples'][0].gt_sem_seg.data
        # The demo has a part of the classes, with numbers of their own.
        names = [dataset.METAINFO['classes'][value] for value in (0, 13)]
        classes = {dataset.metainfo['classes'].index(name) for name in names}
        if split == 'train':
            assert sample['inputs'].shape[2:] == cfg.crop_size
            assert found.shape[1:] == cfg.crop_size
            assert set(found.unique().tolist()) <= {*classes, 255}
        else:
            # Labels at the size of the file, or at the authors' long edge.
            assert max(found.shape) == (2177 if is_mapillary else 128)
            assert set(found.unique().tolist()) == {*classes, 255}


@pytest.mark.parametrize('name', [RECIPE, MAPILLARY])
def test_flips_when_testing(name, make_data):
    cfg = load(name)
    dataset = cfg.val_dataloader.dataset
    make_data(dataset, label_of((60, 80)), (60, 80))
    dataset = DATASETS.build(dataset)
    plain = dataset[0]
    info = dataset.get_data_info(0)
    info.setdefault('seg_fields', [])
    views = Compose(cfg.tta_pipeline)(info)
    assert torch.equal(views['inputs'][0], plain['inputs'])
    assert torch.equal(views['inputs'][1].flip(-1), plain['inputs'])
    # What is scored is the label of the first view.
    first = views['data_samples'][0]
    assert first.ori_shape == plain['data_samples'].ori_shape
    assert torch.equal(
        first.gt_sem_seg.data, plain['data_samples'].gt_sem_seg.data
    )


def test_mapillary_at_the_size_of_the_files(make_data, tmp_path):
    path = tmp_path / 'full_size.py'
    path.write_text(
        f'_base_ = {str(HMSA / f"{MAPILLARY}.py")!r}\n'
        'test_dataloader = dict(\n'
        '    dataset=dict(pipeline=_base_.full_size_pipeline))\n'
    )
    dataset = Config.fromfile(path).test_dataloader.dataset
    label = label_of((60, 80))
    make_data(dataset, label, (60, 80))
    (sample,) = DATASETS.build(dataset)
    assert max(sample['inputs'].shape) == 2177
    found = sample['data_samples']
    assert found.ori_shape == (60, 80)
    np.testing.assert_array_equal(found.gt_sem_seg.data[0], label)


@pytest.mark.parametrize('name', [RECIPE, MAPILLARY])
def test_bad_label_stops_training(name, make_data):
    dataset = innermost(load(name).train_dataloader.dataset)
    make_data(dataset, np.full((60, 80), 66, np.uint8), (60, 80))
    with pytest.raises(ValueError, match=r'no class: 66 \(4800 px\)'):
        DATASETS.build(dataset)[0]
