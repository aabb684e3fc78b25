"""A trained model: its weights, attention alone, all of it, a short time."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from hmsa_mmseg.zoo import Conversion, NotConvertible
from hmsa_mmseg.zoo.training import (
    finetune,
    set_checkpoint,
    train_attention_only,
)

FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
SEGFORMER = 'segformer_mit-b0_8xb2-160k_ade20k-512x512'


def test_a_checkpoint_replaces_what_backbones_load(fresh):
    new = fresh(SEGFORMER)
    assert new.cfg.model.backbone.init_cfg.type == 'Pretrained'
    set_checkpoint(new, 'weights.pth')
    assert new.cfg.load_from == 'weights.pth'
    assert 'init_cfg' not in new.cfg.model.backbone
    assert 'model.backbone.init_cfg' in new.changes
    new = fresh(FCN)
    assert new.cfg.model.pretrained is not None
    set_checkpoint(new, 'weights.pth')
    assert new.cfg.model.pretrained is None


def test_attention_only(fresh, build_small):
    new = fresh(SEGFORMER)
    cfg = new.cfg
    train_attention_only(new)
    assert cfg.train_cfg.max_iters == 8000
    assert cfg.train_cfg.val_interval == 800
    assert cfg.default_hooks.checkpoint.interval == 800
    warmup, decay = cfg.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 75)
    assert (decay.begin, decay.end) == (75, 8000)
    # In the size of the test: not of the training, with these images.
    loveda = fresh('fcn_hr18_4xb4-80k_loveda-512x512')
    train_attention_only(loveda)
    pipeline = loveda.cfg.train_dataloader.dataset.pipeline
    (resize,) = [one for one in pipeline if 'Resize' in one.type]
    assert resize == dict(type='Resize', scale=(1024, 1024), keep_ratio=True)
    assert 'train_dataloader.dataset.pipeline' in loveda.changes
    model = build_small(cfg)
    trained = {
        name.split('.')[1]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {'scale_attn'}
    with pytest.raises(NotConvertible, match='cannot be frozen'):
        train_attention_only(fresh(DDRNET))


def rates_of(model, optim_wrapper):
    """Learning rate of each parameter."""
    wrapper = build_optim_wrapper(model, optim_wrapper)
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: group['lr']
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


@pytest.mark.parametrize(('name', 'usual'), [(SEGFORMER, 10.0), (FCN, 1.0)])
def test_finetune(name, usual, fresh, build_small):
    new = fresh(name)
    cfg = new.cfg
    lr, length = cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_iters
    finetune(new)
    assert cfg.train_cfg.max_iters == length / 20
    model = build_small(cfg)
    assert all(p.requires_grad for p in model.parameters())
    assert {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.training
    } == {f'decode_head.scale_attn.bn{i}' for i in range(2)}
    # Three times that of the head, which the fine-tuning lowers.
    found = rates_of(model, cfg.optim_wrapper)
    attn = found['decode_head.scale_attn.conv0.weight']
    assert attn == pytest.approx(3 * usual * lr)
    seg = found['decode_head.seg_head.conv_seg.weight']
    assert seg == pytest.approx(0.3 * usual * lr)


def test_rates_of_the_attention(fresh):
    """By layer nothing is changed; any custom key is taken over."""
    new = fresh('beit-base_upernet_8xb2-160k_ade20k-640x640')
    finetune(new)
    assert 'custom_keys' not in new.cfg.optim_wrapper.paramwise_cfg
    assert 'by layer' in new.changes['optim_wrapper.constructor']
    for key in ('head', 'decode_head.'):
        new = fresh(FCN)
        # The longest key counts.
        custom = {'a': {}, key: dict(lr_mult=10.0, decay_mult=0.0)}
        new.cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=custom)
        finetune(new)
        keys = new.cfg.optim_wrapper.paramwise_cfg.custom_keys
        name = 'decode_head.scale_attn.conv0.weight'
        longest = max((one for one in keys if one in name), key=len)
        assert keys[longest].lr_mult == pytest.approx(100.0)
        assert keys[longest].decay_mult == 0


def test_images_that_are_tested_as_they_are(fresh):
    new = fresh(FCN)
    train = new.cfg.train_dataloader
    for loader in (new.cfg.val_dataloader, new.cfg.test_dataloader):
        pipeline = loader.dataset.pipeline
        pipeline[:] = [one for one in pipeline if one.type != 'Resize']
    train.dataset.pipeline[2] = dict(
        type='RandomChoiceResize', scales=[256, 512], resize_type='Resize'
    )
    train.dataset = dict(type='ConcatDataset', datasets=[train.dataset])
    finetune(new)
    assert train.dataset.datasets[0].pipeline[2] == dict(
        type='Resize', scale_factor=1.0, keep_ratio=True
    )


def with_schedule(*schedulers, **train_cfg):
    model = dict(decode_head=dict(seg_head=dict(type='FCNHead')))
    cfg = dict(
        model=dict(model, train_cfg=dict(scales=(0.5, 1.0))),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=list(schedulers),
        default_hooks=dict(checkpoint=dict(interval=-1)),
    )
    return Conversion(Config(cfg), {})


# For 80 steps.
SCHEDULERS = (
    dict(type='StepLR', step_size=20, gamma=0.5),
    dict(type='MultiStepLR', milestones=[20, 60], end=80),
    dict(type='ConstantLR', factor=0.5, begin=0, end=40),
    dict(type='LinearLR', start_factor=0.5, begin=0, end=80),
    dict(type='ExponentialLR', gamma=0.97),
    dict(type='CosineAnnealingLR', T_max=70, begin=10, end=80, eta_min=0.01),
    dict(type='CosineRestartLR', periods=[80], eta_min=0.01),
    dict(type='OneCycleLR', eta_max=0.2, total_steps=80),
    dict(type='PolyLR', power=0.9, begin=0, end=80, eta_min=0.01),
)


def rates(scheduler, length):
    """Learning rate at each step of a training."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = PARAM_SCHEDULERS.build(
        dict(scheduler), default_args=dict(optimizer=optimizer)
    )
    found = []
    for _ in range(length):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize('scheduler', SCHEDULERS, ids=lambda x: x['type'])
def test_every_scheduler_is_shortened(scheduler):
    """A quarter of the steps follows the same curve."""
    new = with_schedule(scheduler, max_epochs=80, val_interval=1)
    train_attention_only(new, 20)
    assert new.cfg.train_cfg == dict(max_epochs=20, val_interval=1)
    assert new.cfg.default_hooks.checkpoint.interval == -1
    (short,) = new.cfg.param_scheduler
    found, before = rates(short, 20), rates(scheduler, 80)
    assert max(found) - min(found) > 0.04
    for i, rate in enumerate(found):
        # mmengine's curves end a step early or late.
        near = before[max(4 * i - 4, 0) : 4 * i + 5]
        assert min(near) - 1e-9 <= rate <= max(near) + 1e-9, i


def test_what_cannot_be_shortened(fresh):
    plateau = dict(type='ReduceOnPlateauLR', patience=10)
    no_rate = fresh(FCN)
    del no_rate.cfg.optim_wrapper.optimizer['lr']
    for new, match in (
        (with_schedule(plateau, max_iters=80), 'ReduceOnPlateauLR cannot be'),
        (with_schedule(type='Loop'), 'expected max_iters or max_epochs'),
        (no_rate, r'optimizer\.lr=None: expected'),
    ):
        with pytest.raises(ValueError, match=match):
            train_attention_only(new)


def test_schedules_that_follow_each_other_have_a_step_each():
    warmup = dict(type='LinearLR', begin=0, end=1)
    decay = dict(type='PolyLR', begin=1, end=80)
    new = with_schedule(warmup, decay, max_iters=80)
    train_attention_only(new, 1)
    found = [(one.begin, one.end) for one in new.cfg.param_scheduler]
    assert found == [(0, 1), (1, 2)]
