"""`model.train_cfg` and `model.test_cfg`: what is refused, and when read."""

import copy
import re

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from test_models.cases import FCN, SCALES, predict, with_cfg

WHOLE = dict(mode='whole', scales=[0.5, 1.0])
SLIDE = dict(mode='slide', scales=[1.0], crop_size=[32, 32], stride=[20, 24])
STDC = dict(
    type='STDCNet',
    stdc_type='STDCNet1',
    in_channels=3,
    channels=(8, 8, 8, 8, 8),
    bottleneck_type='cat',
    num_convs=4,
    norm_cfg=dict(type='BN'),
    act_cfg=None,
)
AVERAGE = dict(type='MultiScaleAverageHead', seg_head=FCN)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(scales=None), r'scales is missing'),
        (dict(scales=(1.0,)), r'scales .* 2 or more'),
        (dict(scales=(0.5, 0.5)), r'scales must be'),
        (dict(checkpoint=('scale',)), r"some of .* got \('scale',\)"),
        (dict(checkpoint='backbone'), r"must be a list .* got 'backbone'"),
        (dict(checkpoint=0), r'must be a list of some of .* got 0'),
        (
            {'chekpoint': 1, 2: 3},
            r"2, 'chekpoint' .did you mean check",
        ),
        (dict(attention_only=1), r'must be True or False, got 1'),
        (
            dict(attention_only=True, checkpoint=('backbone',)),
            r'has nothing to save',
        ),
        (dict(norm_eval='yes'), r'norm_eval must be True or False'),
        (dict(norm_eval=True, stats_scale=1.0), r'stats_scale=1\.0 takes no'),
        (dict(stats_scale=2.0), r'stats_scale must be one of'),
        (dict(stats_scale='top'), r'stats_scale must be one of'),
        (dict(stats_scale=True), r'stats_scale must be one of'),
    ],
)
@pytest.mark.fault(
    'a misspelt or wrong setting of model.train_cfg',
    'refused, with its name and what was expected',
)
def test_bad_train_cfg(cfg, message, tiny_model_cfg):
    cfg = {'scales': (0.5, 1.0), **cfg}
    message = rf'model\.train_cfg.*{message}'
    with pytest.raises(ValueError, match=message):
        MODELS.build(tiny_model_cfg(train_cfg=cfg))
    model = MODELS.build(tiny_model_cfg())
    with pytest.raises(ValueError, match=message):
        model.train_cfg = cfg


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(scales=None), r'scales is missing'),
        (dict(scales=(0, 1)), r'scales .* got 0 in \(0, 1\)'),
        (dict(scales=()), r'scales .* got \(\)'),
        (dict(scale=1), "'scale' .did you mean scales"),
        (dict(mode='tiles'), r"mode must be .*'slide'.*'tiles'"),
        (dict(mode=None), r"mode must be .*'slide'.*got None"),
        (dict(dtype='half'), r"dtype must be .*'float16'.*'half'"),
        (dict(classes_only=1), r'classes_only must be True or False, got 1'),
        (dict(mode='slide'), r'crop_size must be .* got None'),
        (dict(SLIDE, stride=(32, 33)), r'stride=.*33\) leaves out .*32\)'),
        (dict(SLIDE, stride=(32, 0)), r'stride must be .* 1 or more; got'),
        # Settings of version 0.1, with what to take instead.
        (dict(memory_budget=10**9), r"memory_budget=1000000000 .*mode='slide"),
        (dict(over_budget='slide'), r"over_budget='slide' .*mode='slide'"),
    ],
)
@pytest.mark.fault(
    'a misspelt or wrong setting of model.test_cfg',
    'refused, with its name and what was expected',
)
def test_bad_test_cfg(cfg, message, tiny_model_cfg):
    cfg = {'mode': 'whole', 'scales': SCALES, **cfg}
    message = rf'model\.test_cfg.*{message}'
    with pytest.raises(ValueError, match=message):
        MODELS.build(tiny_model_cfg(test_cfg=cfg))
    model = MODELS.build(tiny_model_cfg()).eval()
    with pytest.raises(ValueError, match=message):
        model.test_cfg = cfg
    model.test_cfg.update(cfg)
    with pytest.raises(ValueError, match=message):
        model.predict(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(decode_head=FCN), 'FCNHead does not combine scales'),
        (
            dict(
                decode_head=AVERAGE,
                train_cfg=dict(scales=(1.0,), attention_only=True),
            ),
            'MultiScaleAverageHead has no attention to train',
        ),
        pytest.param(
            dict(
                backbone=STDC,
                train_cfg=dict(scales=(0.5, 1), checkpoint=['backbone']),
            ),
            r"train_cfg\.checkpoint: 'backbone' .* STDCNet",
            marks=pytest.mark.needs_torch('checkpointing'),
        ),
    ],
)
def test_models_that_do_not_fit(cfg, message, tiny_model_cfg):
    with pytest.raises((TypeError, ValueError), match=message):
        MODELS.build({**tiny_model_cfg(), **cfg})


@pytest.mark.fault(
    'train_cfg.checkpoint with a torch that is too old',
    'refused, with the version that is needed',
)
def test_checkpointing_with_an_old_torch(tiny_model_cfg, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.0.1+cu117')
    train_cfg = dict(scales=(0.5, 1.0), checkpoint=('scales',))
    with pytest.raises(ValueError, match=r"\('scales',\) needs torch 2\.1 "):
        MODELS.build(tiny_model_cfg(train_cfg=train_cfg))


def test_cfgs_may_be_left_out(tiny_model_cfg, make_batch):
    inputs, samples = make_batch()
    model = MODELS.build({**tiny_model_cfg(), 'train_cfg': None}).eval()
    assert model.encode_decode(inputs).shape == (2, 5, 64, 64)
    with pytest.raises(ValueError, match=r'model\.train_cfg\.scales is mis'):
        model.loss(inputs, samples)
    model.test_cfg = None
    with pytest.raises(ValueError, match=r'model\.test_cfg\.scales is mis'):
        model.encode_decode(inputs)
    with pytest.raises(ValueError, match=r'train_cfg must be a dict .* got 3'):
        model.train_cfg = 3


@pytest.mark.parametrize('cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_a_plain_dict_may_be_assigned(cfg, build_lively, make_batch):
    model = build_lively()
    inputs, samples = make_batch(size=(40, 64))
    model.test_cfg = dict(cfg)
    assert model.test_cfg.mode == cfg['mode']
    found = predict(model, inputs, samples)
    expected = predict(with_cfg(model, **cfg), inputs, samples)
    default = predict(with_cfg(model), inputs, samples)
    for one, other, another in zip(found, expected, default):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
        assert not torch.equal(one.seg_logits.data, another.seg_logits.data)


def test_what_is_refused_changes_nothing(build_lively):
    model = build_lively()
    model.test_cfg = dict(WHOLE, dtype='bfloat16')
    settings = model.inference_settings
    assert settings.scales == (0.5, 1.0)
    assert settings.dtype is torch.bfloat16
    with pytest.raises(ValueError, match=r'test_cfg\.mode'):
        model.test_cfg = dict(WHOLE, mode='tiles')
    assert model.test_cfg.mode == 'whole'
    assert model.inference_settings is settings
    model.train_cfg = dict(scales=(1.0, 0.25), stats_scale=0.25)
    assert model.decode_head.stats_scale == 0.25
    with pytest.raises(ValueError, match=r'train_cfg\.scales'):
        model.train_cfg = dict(scales=(1.0,))
    assert model.training_settings.scales == (0.25, 1.0)


def test_settings_are_read_when_changed_in_place(build_lively, make_batch):
    model = with_cfg(build_lively())
    inputs, samples = make_batch(size=(40, 64))
    model.test_cfg.classes_only = True
    model.test_cfg['scales'] = [1.0]
    found = predict(model, inputs, samples)
    assert model.inference_settings.scales == (1.0,)
    expected = predict(with_cfg(model, scales=(1.0,)), inputs, samples)
    for one, other in zip(found, expected):
        assert 'seg_logits' not in one
        assert torch.equal(
            one.pred_sem_seg.data.long(), other.pred_sem_seg.data
        )
    # Where the caller has kept the config; a copy has its own.
    cfg = ConfigDict(WHOLE)
    model.test_cfg = cfg
    other = copy.deepcopy(model)
    cfg.scales = [0.25]
    assert model.inference_settings.scales == (0.25,)
    assert other.inference_settings.scales == (0.5, 1.0)
    model.train_cfg.scales = [0.25, 0.5]
    assert model.training_settings.scales == (0.25, 0.5)
    model.train()
    norms = [x for x in model.backbone.modules() if hasattr(x, 'momentum')]
    assert norms
    assert all(norm.training for norm in norms)
    model.train_cfg.norm_eval = True
    assert model.training_settings.norm_eval
    assert not any(norm.training for norm in norms)
    model.eval()
    # Within a value, as scales that are a list.
    model.test_cfg = copy.deepcopy(WHOLE)
    model.test_cfg.scales.append(2.0)
    assert model.inference_settings.scales == SCALES
    model.test_cfg.scales.append('x')
    with pytest.raises(ValueError, match=r'test_cfg\.scales .* got .x'):
        predict(model, inputs, samples)


def test_what_is_frozen_is_settled_when_built(tiny_model_cfg):
    frozen = dict(scales=(0.5, 1.0), attention_only=True)
    model = MODELS.build(tiny_model_cfg())
    message = re.escape('attention_only=True comes too late')
    with pytest.raises(ValueError, match=message):
        model.train_cfg = frozen
    model.train_cfg.attention_only = True
    with pytest.raises(ValueError, match=message):
        _ = model.training_settings
    model = MODELS.build(tiny_model_cfg(train_cfg=frozen))
    with pytest.raises(ValueError, match='attention_only=False comes too'):
        model.train_cfg = dict(scales=(0.5, 1.0))
    # Other settings may change.
    model.train_cfg = dict(frozen, scales=(0.25, 1.0))
    assert model.training_settings.scales == (0.25, 1.0)
    assert model.attention_only


def test_windows_of_slide_may_stay_in_another_mode(build_lively, make_batch):
    inputs, _ = make_batch()
    (expected, *_) = predict(with_cfg(build_lively()), inputs)
    for windows in (
        dict(crop_size=None, stride=None),
        dict(crop_size=[32, 32], stride=[0, 'x']),
    ):
        model = with_cfg(build_lively(), **windows)
        assert model.inference_settings.crop_size is None
        (found, *_) = predict(model, inputs)
        assert found.seg_logits.data.shape == expected.seg_logits.data.shape
