"""Own classes, own data, a trained model, and attention alone."""

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS
from torch import nn

from hmsa_mmseg.zoo import NotConvertible, convert, single_scale
from hmsa_mmseg.zoo.adaptation import (
    finetune,
    finetune_scales,
    set_checkpoint,
    set_data_root,
    set_num_classes,
    train_attention_only,
)
from hmsa_mmseg.zoo.sizes import set_crop_size

FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
STDC = 'stdc1_4xb12-80k_cityscapes-512x1024'
KNET = 'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512'
OCRNET = 'ocrnet_hr18_4xb4-80k_ade20k-512x512'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
SEGFORMER = 'segformer_mit-b0_8xb2-160k_ade20k-512x512'


@pytest.fixture
def fresh(converted):
    """Return a function that gives a config which may be changed."""
    return lambda name: copy.deepcopy(converted(name).cfg)


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
def test_num_classes(name, old, kept, fresh, build_small):
    cfg, changes = fresh(name), {}
    before = numbers_of(cfg.model)
    set_num_classes(cfg, 7, changes)
    after = numbers_of(cfg.model)
    assert before.count(old) == after.count(7) > 0
    assert [number for number in after if number != 7] == kept
    assert changes['model.decode_head.seg_head.num_classes'] == f'was {old}'
    assert build_small(cfg).num_classes == 7


@pytest.mark.parametrize('name', [STDC, KNET, OCRNET])
def test_num_classes_of_the_zoo_s_own_model(name, zoo_config, build_small):
    multi_scale, changes = convert(zoo_config(name))
    set_num_classes(multi_scale, 7, changes)
    cfg, changes = single_scale(zoo_config(name))
    set_num_classes(cfg, 7, changes)
    assert numbers_of(cfg.model) == numbers_of(multi_scale.model)
    assert 'model.decode_head.num_classes' in changes
    set_crop_size(cfg, (32, 64), changes)
    assert cfg.model.data_preprocessor.size == (32, 64)
    model = build_small(cfg)
    assert type(model).__name__.endswith('EncoderDecoder')
    assert model.num_classes == 7


def test_weights_of_other_classes_are_left_out(fresh):
    cfg, changes = fresh(DDRNET), {}
    losses = cfg.model.decode_head.seg_head.loss_decode
    assert any(len(one.class_weight) == 19 for one in losses)
    assert set_num_classes(cfg, 19, changes) == []
    assert changes == {}
    assert all(len(one.class_weight) == 19 for one in losses)
    told = set_num_classes(cfg, 7, changes)
    assert not any('class_weight' in one for one in losses)
    (text,) = {changes[key] for key in changes if 'class_weight' in key}
    assert text == 'the weights of 19 classes were left out'
    assert told == [
        f'model.decode_head.seg_head.loss_decode.{i}: {text}'
        for i in range(len(losses))
    ]
    with pytest.raises(ValueError, match='num_classes must be 2 or more'):
        set_num_classes(cfg, 1, changes)


@pytest.mark.parametrize('weights', [[1.0] * 19, 'weights.npy'])
def test_a_loss_that_needs_weights_becomes_one_without(weights, fresh):
    cfg = fresh(FCN)
    loss = cfg.model.auxiliary_head.loss_decode
    loss.clear()
    loss.update(
        type='ClassWeightedCrossEntropyLoss',
        class_weight=weights,
        loss_weight=0.4,
    )
    (told,) = set_num_classes(cfg, 7, {})
    assert told.startswith('model.auxiliary_head.loss_decode: the weights of')
    weighted = MODELS.build(
        dict(
            type='ClassWeightedCrossEntropyLoss',
            class_weight=[1.0] * 7,
            loss_weight=0.4,
        )
    )
    logits, labels = torch.randn(2, 7, 4, 4), torch.randint(7, (2, 4, 4))
    labels[:, :2] = 255
    found, expected = (
        one(logits, labels, ignore_index=255)
        for one in (MODELS.build(loss), weighted)
    )
    torch.testing.assert_close(found, expected)


def test_labels_of_a_pipeline_are_of_as_many_classes(fresh):
    cfg = fresh(FCN)
    load = ConfigDict(type='LoadSegLabels', num_classes=19)
    cfg.train_dataloader.dataset.pipeline[1] = load
    set_num_classes(cfg, 7, {})
    assert load.num_classes == 7


def test_data_root(fresh):
    cfg, changes = fresh(FCN), {}
    set_data_root(cfg, '/some/where', changes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.data_root == '/some/where'
    assert cfg.data_root == cfg.test_dataloader.dataset.data_root
    assert changes['train_dataloader.dataset.data_root'] == (
        'was data/cityscapes/'
    )
    cfg.val_dataloader.dataset.data_root = 'elsewhere'
    with pytest.raises(ValueError, match=r"\['/some/where', 'elsewhere'\]"):
        set_data_root(cfg, 'other', changes)


def test_a_checkpoint_replaces_what_backbones_load(fresh):
    cfg, changes = fresh(SEGFORMER), {}
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    set_checkpoint(cfg, 'weights.pth', changes)
    assert cfg.load_from == 'weights.pth'
    assert 'init_cfg' not in cfg.model.backbone
    assert 'model.backbone.init_cfg' in changes
    cfg = fresh(FCN)
    assert cfg.model.pretrained is not None
    set_checkpoint(cfg, 'weights.pth', changes)
    assert cfg.model.pretrained is None


def test_attention_only(fresh, build_small):
    cfg, changes = fresh(SEGFORMER), {}
    train_attention_only(cfg, changes)
    assert cfg.train_cfg.max_iters == 8000
    assert cfg.train_cfg.val_interval == 800
    assert cfg.default_hooks.checkpoint.interval == 800
    warmup, decay = cfg.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 75)
    assert (decay.begin, decay.end) == (75, 8000)
    # In the size of the test: not of the training, with these images.
    loveda, changes = fresh('fcn_hr18_4xb4-80k_loveda-512x512'), {}
    train_attention_only(loveda, changes)
    for pipeline in (
        loveda.train_pipeline,
        loveda.train_dataloader.dataset.pipeline,
    ):
        (resize,) = [one for one in pipeline if 'Resize' in one.type]
        assert resize == dict(
            type='Resize', scale=(1024, 1024), keep_ratio=True
        )
    assert 'train_dataloader.dataset.pipeline' in changes
    model = build_small(cfg)
    trained = {
        name.split('.')[1]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {'scale_attn'}
    for name in (DDRNET, 'pidnet-s_2xb6-120k_1024x1024-cityscapes'):
        with pytest.raises(NotConvertible, match='cannot be frozen'):
            train_attention_only(fresh(name), {})


def test_finetune(fresh, build_small):
    for name, usual in ((SEGFORMER, 10.0), (FCN, 1.0)):
        cfg, changes = fresh(name), {}
        lr, length = cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_iters
        finetune(cfg, changes)
        assert cfg.train_cfg.max_iters == length / 20
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.3 * lr)
        model = build_small(cfg)
        assert all(p.requires_grad for p in model.parameters())
        training = {
            name
            for name, layer in model.named_modules()
            if isinstance(layer, nn.BatchNorm2d) and layer.training
        }
        assert training == {f'decode_head.scale_attn.bn{i}' for i in range(2)}
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        names = {id(p): name for name, p in model.named_parameters()}
        rates = {
            names[id(p)]: group['lr']
            for group in wrapper.optimizer.param_groups
            for p in group['params']
        }
        # Three times that of the head, which the fine-tuning lowers.
        attn = rates['decode_head.scale_attn.conv0.weight']
        assert attn == pytest.approx(3 * usual * lr)
        seg = rates['decode_head.seg_head.conv_seg.weight']
        assert seg == pytest.approx(0.3 * usual * lr)
    beit = 'beit-base_upernet_8xb2-160k_ade20k-640x640'
    cfg, changes = fresh(beit), {}
    finetune(cfg, changes)
    assert 'custom_keys' not in cfg.optim_wrapper.paramwise_cfg
    assert 'by layer' in changes['optim_wrapper.constructor']


@pytest.mark.parametrize('key', ['head', 'decode_head', 'decode_head.'])
def test_the_attention_is_new_to_any_custom_key(key, fresh):
    cfg = fresh(FCN)
    custom = {key: dict(lr_mult=10.0, decay_mult=0.0)}
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=custom)
    finetune(cfg, {})
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    name = 'decode_head.scale_attn.conv0.weight'
    longest = max((one for one in keys if one in name), key=len)
    assert keys[longest].lr_mult == pytest.approx(100.0)
    assert keys[longest].decay_mult == 0


def test_images_that_are_tested_as_they_are(fresh):
    cfg = fresh(FCN)
    for pipeline in (cfg.test_pipeline, cfg.val_dataloader.dataset.pipeline):
        pipeline[:] = [one for one in pipeline if one.type != 'Resize']
    cfg.train_dataloader.dataset.pipeline[2] = dict(
        type='RandomChoiceResize', scales=[256, 512], resize_type='Resize'
    )
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[cfg.train_dataloader.dataset]
    )
    finetune(cfg, {})
    pipeline = cfg.train_dataloader.dataset.datasets[0].pipeline
    assert pipeline[2] == dict(
        type='Resize', scale_factor=1.0, keep_ratio=True
    )


def test_a_config_without_a_learning_rate(fresh):
    cfg = fresh(FCN)
    del cfg.optim_wrapper.optimizer['lr']
    for adapt in (finetune, train_attention_only):
        with pytest.raises(ValueError, match=r'optimizer\.lr=None: expected'):
            adapt(copy.deepcopy(cfg), {})


def test_scales_of_attention():
    assert finetune_scales((2.0, 0.5, 1)) == (0.25, 0.5, 1.0, 2.0)
    with pytest.raises(ValueError, match='test_scales must be a list of 1'):
        finetune_scales((0.5, 0.5))


def test_other_schedules():
    def make(*schedulers, **train_cfg):
        optimizer = dict(type='SGD', lr=0.1)
        model = dict(decode_head=dict(seg_head=dict(type='FCNHead')))
        model['train_cfg'] = dict(scales=(0.5, 1.0))
        return Config(
            dict(
                model=model,
                train_cfg=train_cfg,
                optim_wrapper=dict(optimizer=optimizer),
                param_scheduler=list(schedulers),
                default_hooks=dict(checkpoint=dict(interval=-1)),
            )
        )

    steps = dict(type='MultiStepLR', milestones=[60, 72], end=80)
    cosine = dict(type='CosineAnnealingLR', T_max=70, begin=10, end=80)
    cfg = make(steps, cosine, max_epochs=80, val_interval=1)
    train_attention_only(cfg, {}, 20)
    assert cfg.train_cfg == dict(max_epochs=20, val_interval=1)
    assert cfg.default_hooks.checkpoint.interval == -1
    found = [dict(one) for one in cfg.param_scheduler]
    assert found == [
        dict(type='MultiStepLR', milestones=[15, 18], end=20),
        dict(type='CosineAnnealingLR', T_max=18, begin=2, end=20),
    ]
    with pytest.raises(ValueError, match='expected max_iters or max_epochs'):
        train_attention_only(make(type='Loop'), {})
