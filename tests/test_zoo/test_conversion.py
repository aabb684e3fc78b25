"""What a conversion changes, and what it leaves."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper

from hmsa_mmseg.zoo import (
    NotConvertible,
    convert,
    single_scale,
    to_multi_scale,
)
from hmsa_mmseg.zoo.nested import READ

CONFIGS = Path(__file__).parents[2] / 'configs/hmsa'
OCRNET = 'ocrnet_hr48_4xb2-160k_cityscapes-512x1024'
CITYSCAPES = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
SEGFORMER = 'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024'


def read_of(cfg):
    """What is read of a config, as plain values."""
    return {key: cfg[key] for key in READ if key in cfg}


def differences(a, b, key=''):
    """Dotted keys at which two values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            one
            for name in {**a, **b}
            for one in differences(
                a.get(name, 'missing'),
                b.get(name, 'missing'),
                f'{key}.{name}' if key else str(name),
            )
        ]
    same = type(a) is type(b) and a == b
    return [] if same else [key]


@pytest.mark.parametrize(
    ('name', 'own', 'backbone'),
    [
        (
            OCRNET,
            'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024',
            ['model.backbone.type'],
        ),
        (
            SEGFORMER,
            'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024',
            [],
        ),
    ],
)
def test_equals_what_was_written_by_hand(name, own, backbone, zoo_config):
    """Our configs of the same models, which have their own data sets.

    They say how wide attention is; to others the head gives a width.
    """
    found = to_multi_scale(zoo_config(name))
    hand = Config.fromfile(CONFIGS / f'{own}.py')
    keys = ['model', 'optim_wrapper', 'param_scheduler', 'train_cfg']
    keys += ['default_hooks', 'tta_pipeline', 'custom_imports', 'visualizer']
    assert [
        one for key in keys for one in differences(hand[key], found[key], key)
    ] == [*backbone, 'model.decode_head.attn_channels']
    assert found.train_dataloader.dataset.type == 'CityscapesDataset'


COMMON = {
    'custom_imports',
    'default_hooks.checkpoint.type',
    'default_hooks.visualization.type',
    'visualizer.type',
}


def test_nothing_else_changes(zoo_config):
    before = zoo_config(SEGFORMER)
    kept = before.to_dict()
    cfg, changes = convert(before)
    assert before.to_dict() == kept
    # Of variables that nothing reads none is left to be stale.
    assert 'train_pipeline' in kept
    assert cfg.keys() <= {*READ}
    found = differences(read_of(kept), cfg.to_dict())
    assert cfg.model.decode_head.seg_head == kept['model']['decode_head']
    assert {key for key in found if not key.startswith('model.decode')} == {
        *COMMON,
        'model.type',
        'model.train_cfg.scales',
        'model.train_cfg.stats_scale',
        'model.test_cfg.scales',
        'tta_model.type',
        'tta_pipeline',
    }
    # Windows at test time stay.
    assert cfg.model.test_cfg.crop_size == (1024, 1024)
    assert cfg.model.test_cfg.stride == (768, 768)
    assert changes['model.type'] == 'was EncoderDecoder'
    # Of the zoo's own model, to compare with, even less does.
    cfg, changes = single_scale(before)
    assert before.to_dict() == kept
    found = {*differences(read_of(kept), cfg.to_dict())}
    assert found == changes.keys() == COMMON
    assert cfg.custom_imports.imports == ['hmsa_mmseg']


def test_refusals(zoo_config, converted):
    bare = Config(dict(model=dict(type='EncoderDecoder')))
    for kwargs in (
        dict(train_scales=(1.0,)),
        dict(train_scales=(0.5, 0.5)),
        dict(test_scales=(-1.0,)),
    ):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            convert(bare, **kwargs)
    other, head = (copy.deepcopy(zoo_config(CITYSCAPES)) for _ in range(2))
    other.model.type = 'SegTTAModel'
    # Heads that are not in the list of refusals are looked at.
    head.model.decode_head.type = 'NoSuchHead'
    for cfg, match in (
        (converted(CITYSCAPES).cfg, 'is a multi-scale model already'),
        (Config(dict(data_root='data')), 'model=None'),
        (other, "'SegTTAModel' is a segmentor"),
        (head, 'NoSuchHead'),
    ):
        with pytest.raises(NotConvertible, match=match):
            convert(cfg)
    # There is nothing to compare a refused model with.
    with pytest.raises(NotConvertible, match='predicts masks'):
        single_scale(zoo_config('mask2former_swin-s_8xb2-160k_ade20k-512x512'))


def test_odd_configs(zoo_config):
    """Without hooks and pipelines; settings elsewhere, or read by nothing."""
    cfg = copy.deepcopy(zoo_config(CITYSCAPES))
    for key in ('default_hooks', 'visualizer', 'tta_pipeline', 'tta_model'):
        cfg.pop(key)
    cfg.custom_imports = ConfigDict(imports='some.module')
    preprocessor = cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    cfg.model.train_cfg = ConfigDict(sampler=None)
    cfg.model.test_cfg = ConfigDict(mode='whole', crop_size=256, stride=170)
    new, changes = convert(cfg)
    assert new.custom_imports.imports == ['hmsa_mmseg', 'some.module']
    assert new.default_hooks == dict(
        checkpoint=dict(type='SafeCheckpointHook', by_epoch=False)
    )
    load, augment = new.tta_pipeline
    assert load.type == 'LoadImageFromFile'
    assert [one.prob for one in augment.transforms[1]] == [0.0, 1.0]
    assert new.model.data_preprocessor == preprocessor
    assert new.model.test_cfg == dict(mode='whole', scales=(0.5, 1.0, 2.0))
    train_cfg = dict(scales=(0.5, 1.0), stats_scale=1.0)
    assert new.model.train_cfg == train_cfg
    assert 'left out' in changes['model.train_cfg.sampler']


def settings_of(model, optim_wrapper):
    """Learning rate and weight decay of each parameter."""
    cfg = copy.deepcopy(optim_wrapper)
    # AMP needs a GPU.
    for key in ('loss_scale', 'dtype'):
        cfg.pop(key, None)
    cfg.type = 'OptimWrapper'
    wrapper = build_optim_wrapper(model, cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


@pytest.mark.parametrize(
    'name',
    [
        # By the name of the head, and with decay by layers.
        'segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'beit-base_upernet_8xb2-160k_ade20k-640x640',
    ],
)
def test_parameters_keep_their_settings(
    name, zoo_config, converted, build_small
):
    cfg, new = zoo_config(name), converted(name).cfg
    expected = settings_of(build_small(cfg), cfg.optim_wrapper)
    assert len(set(expected.values())) > 1
    of_head = {v for k, v in expected.items() if k.startswith('decode_head.')}
    for key, value in settings_of(build_small(new), new.optim_wrapper).items():
        if '.scale_attn.' in key:
            # Attention learns as the head does.
            assert value in of_head
        else:
            stock = key.replace('decode_head.seg_head.', 'decode_head.')
            assert value == expected.pop(stock), key
    assert expected == {}


def test_keys_below_the_decode_head_are_rewritten(zoo_config):
    cfg = copy.deepcopy(zoo_config(CITYSCAPES))
    keys = {
        'decode_head.conv_seg': dict(lr_mult=3.0),
        'decode_head': dict(lr_mult=2.0),
        'decode_head.': dict(lr_mult=2.0),
        'backbone.decode': dict(lr_mult=1.5),
    }
    cfg.optim_wrapper.paramwise_cfg = ConfigDict(custom_keys=keys)
    new, changes = convert(cfg)
    assert list(new.optim_wrapper.paramwise_cfg.custom_keys) == [
        'decode_head.seg_head.conv_seg',
        'decode_head',
        'decode_head.',
        'backbone.decode',
    ]
    assert any(text == 'was decode_head.conv_seg' for text in changes.values())
