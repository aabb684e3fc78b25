"""`model.train_cfg`: attention alone, statistics, and checkpointing."""

import contextlib
import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from oracles.live_bytes import peak_live_bytes
from test_models.cases import AUX, CE, HEADS, build_head, learned
from torch import nn

from hmsa_mmseg.analysis.complexity import count_flops
from hmsa_mmseg.models.scale_fusion import resize_image
from hmsa_mmseg.models.segmentors import (
    multi_scale_attention_segmentor as segmentor,
)
from hmsa_mmseg.models.utils.checkpointing import FrozenStatistics

ATTN = 'decode_head.scale_attn.'
LOSS_SCALE = dict(CE, loss_weight=0.05)
SCALES = (0.5, 1.0)
FROZEN = dict(scales=SCALES, attention_only=True)
# HRNet's modules change the list they are given, and are fed several maps;
# ResNet has a head with dropout; MiT's blocks take sizes beside tensors.
NAMES = ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'mit_segformer', 'swin_uper']
WAYS = [('scales',), ('backbone',), ('scales', 'backbone')]
needs_checkpointing = pytest.mark.needs_torch('checkpointing')


def each_model(names):
    return pytest.mark.parametrize('zoo_case', names, indirect=True)


def step(model, batch, autocast=False):
    """Return all that a training step leaves behind."""
    inputs, samples = batch
    torch.manual_seed(2)
    context = contextlib.nullcontext()
    if autocast:
        context = torch.autocast('cpu', dtype=torch.bfloat16)
    with context:
        losses = model.loss(inputs, copy.deepcopy(samples))
    total, _ = model.parse_losses(losses)
    total.backward()
    found = {f'loss of {key}': value for key, value in losses.items()}
    for name, param in model.named_parameters():
        if param.grad is not None:
            found[f'gradient of {name}'] = param.grad
    found.update(model.named_buffers())
    found['random state'] = torch.get_rng_state()
    return found


# ------------------------------------------------- norm layers, all at once


@each_model(NAMES[:1])
@pytest.mark.parametrize('stats_scale', [None, 0.5])
def test_norm_layers_are_counted_and_summed_at_once(
    zoo_case, build_tiny, make_batch, monkeypatch, stats_scale
):
    train_cfg = dict(scales=(0.25, *SCALES), stats_scale=stats_scale)
    model = build_tiny(**zoo_case, train_cfg=train_cfg).train()
    # Reads its counter, and is called several times.
    model.backbone.bn1.momentum = None
    relu = model.backbone.relu
    model.backbone.relu = nn.Sequential(model.backbone.bn1, relu)
    one_by_one = copy.deepcopy(model.double())
    inputs, samples = make_batch(size=(64, 96))
    batch = inputs.double(), samples
    found = step(model, batch)
    monkeypatch.setattr(segmentor, 'plain_norm_layers', lambda model: [])
    torch.testing.assert_close(
        found, step(one_by_one, batch), rtol=1e-12, atol=1e-12
    )
    # In each pass by itself, and as the first part of two activations.
    passes = 3 if stats_scale is None else 1
    assert found['backbone.bn1.num_batches_tracked'] == 3 * passes


# --------------------------------------------------------- attention alone


def build_frozen(build_tiny, zoo_case, train_cfg=FROZEN):
    torch.manual_seed(1)
    if zoo_case['backbone']['type'] == 'ResNetV1c':
        aux = dict(AUX, in_channels=32, in_index=2)
        zoo_case = dict(zoo_case, auxiliary_head=aux)
    decode_head = dict(loss_scale=LOSS_SCALE)
    return build_tiny(**zoo_case, train_cfg=train_cfg, decode_head=decode_head)


@each_model(NAMES[:3])
def test_only_attention_changes(zoo_case, build_tiny, make_batch):
    model = build_frozen(build_tiny, zoo_case)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    inputs, samples = make_batch(size=(64, 96))
    data = dict(inputs=list(inputs), data_samples=samples)
    wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1),
        clip_grad=dict(max_norm=1.0),
        paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
    )
    wrapper = build_optim_wrapper(model, ConfigDict(wrapper))
    for _ in range(2):
        model.train().train_step(data, wrapper)
    after = model.state_dict()
    changed = {
        key for key in before if not torch.equal(before[key], after[key])
    }
    assert changed == {key for key in before if key.startswith(ATTN)}


@each_model(NAMES[:3])
def test_gradients_are_those_of_the_whole_model(
    zoo_case, build_tiny, make_batch
):
    """With statistics fixed and dropout off there, as when frozen."""
    batch = make_batch(size=(64, 96))
    frozen = build_frozen(build_tiny, zoo_case).train()
    whole = build_frozen(build_tiny, zoo_case, dict(scales=SCALES))
    whole.eval().decode_head.scale_attn.train()
    found, expected = (step(model, batch) for model in (frozen, whole))
    attention = {name for name, _ in frozen.named_parameters() if ATTN in name}
    assert learned(frozen) == attention
    assert not any(
        param.requires_grad
        for name, param in frozen.named_parameters()
        if name not in attention
    )
    left_out = {'loss of scale_0.5.loss_ce', 'loss of scale_1.loss_ce'}
    if frozen.with_auxiliary_head:
        left_out |= {'loss of aux.loss_ce', 'loss of aux.acc_seg'}
    losses = {key for key in expected if 'loss of' in key}
    assert losses - found.keys() == left_out
    for key, value in found.items():
        # Without gradients PyTorch takes other kernels for MiT.
        torch.testing.assert_close(value, expected[key])
        assert 'gradient' not in key or value.abs().sum() > 0, key
    with torch.no_grad():
        losses = frozen.loss(*batch)
    assert {'scale_0.5.loss_ce', 'scale_1.loss_ce'} <= losses.keys()


@pytest.mark.needs_torch('freed_storages')
@each_model(NAMES[:2])
def test_attention_alone_costs_less(zoo_case, build_tiny, make_batch):
    batch = make_batch(size=(64, 64))
    costs = []
    for train_cfg in (FROZEN, dict(scales=SCALES)):
        model = build_frozen(build_tiny, zoo_case, train_cfg)
        costs.append(
            (
                count_flops(lambda m=model: step(m, batch)),
                peak_live_bytes(lambda m=model: step(m, batch)),
            )
        )
    (flops, peak), (all_flops, all_peak) = costs
    # Backbone and seg heads go forward only, a third of a training step. The
    # resizes of the losses, products of matrices, are the same in both.
    assert flops < 0.6 * all_flops
    assert peak < 0.7 * all_peak


def test_attention_to_scale_and_modes(tiny_model_cfg, make_batch):
    train_cfg = dict(FROZEN, scales=(0.5, 1.0, 2.0))
    model = build_head(
        tiny_model_cfg, 'attention-to-scale', train_cfg=train_cfg
    )
    step(model, make_batch())
    names = {name for name, _ in model.named_parameters()}
    assert learned(model) == {name for name in names if ATTN in name}

    def norms():
        return {
            name
            for name, module in model.named_modules()
            if module.training and isinstance(module, nn.BatchNorm2d)
        }

    expected = {f'{ATTN}bn0', f'{ATTN}bn1'}
    assert norms() == expected
    assert not model.eval().training
    assert not norms()
    assert model.train().training
    assert norms() == expected


# -------------------------------------------------------------- statistics


@pytest.fixture
def build(tiny_model_cfg):
    """Return a function that builds a model in float64 for training."""

    def make(name, **train_cfg):
        torch.manual_seed(0)
        model = build_head(
            tiny_model_cfg,
            name,
            train_cfg=dict(scales=SCALES, **train_cfg),
            test_cfg=dict(mode='whole', scales=SCALES),
        )
        return model.train().double()

    return make


def statistics(model):
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if 'scale_attn' not in name
    }


def what_is_learned(found):
    return {key: value for key, value in found.items() if ' of ' in key}


with_and_without_checkpoint = pytest.mark.parametrize(
    'checkpoint',
    [(), pytest.param(('scales', 'backbone'), marks=needs_checkpointing)],
)


@with_and_without_checkpoint
@pytest.mark.parametrize('name', HEADS)
def test_statistics_are_those_of_one_scale(
    name, checkpoint, build, make_batch
):
    inputs, samples = make_batch()
    inputs = inputs.double()
    for scale in SCALES:
        model = build(name, stats_scale=scale, checkpoint=checkpoint)
        other = copy.deepcopy(model)
        plain = build(name)
        # Only what is remembered differs, not what is learned.
        found, expected = (
            step(one, (inputs, samples)) for one in (model, plain)
        )
        torch.testing.assert_close(
            what_is_learned(found), what_is_learned(expected)
        )
        for key, value in expected.items():
            if 'scale_attn.bn' in key:  # attention sees all scales
                torch.testing.assert_close(found[key], value)
        feats = other.extract_feat(resize_image(inputs, scale, False))
        other.decode_head.forward_seg_heads(feats)
        found, expected = statistics(model), statistics(other)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        mixed = statistics(plain)
        assert any(not found[key].equal(mixed[key]) for key in found)


@with_and_without_checkpoint
@pytest.mark.parametrize('name', HEADS)
def test_norm_eval(name, checkpoint, build, make_batch):
    inputs, samples = make_batch()
    batch = inputs.double(), samples
    model, plain = (
        build(name, norm_eval=flag, checkpoint=checkpoint)
        for flag in (True, False)
    )
    # As a test normalises: with each layer by itself in evaluation mode.
    for key, layer in plain.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and 'scale_attn' not in key:
            layer.eval()
    before = statistics(model)
    torch.testing.assert_close(step(model, batch), step(plain, batch))
    torch.testing.assert_close(statistics(model), before, rtol=0, atol=0)
    # mmseg's loops switch after each validation.
    modes = [module.training for module in model.modules()]
    model.eval()
    assert not any(module.training for module in model.modules())
    model.train()
    assert [module.training for module in model.modules()] == modes
    assert model.training


# ----------------------------------------------------------- checkpointing


def build_checkpointed(
    build_tiny, zoo_case=None, names=(), scales=(0.5, 0.75, 1.0)
):
    """Build a model, with dropout and stochastic depth where there are any."""
    zoo_case = copy.deepcopy(zoo_case or {})
    backbone = zoo_case.get('backbone', dict(type='other'))
    if backbone['type'] in ('MixVisionTransformer', 'SwinTransformer'):
        backbone.update(drop_rate=0.2, drop_path_rate=0.5)
    torch.manual_seed(1)
    train_cfg = dict(scales=scales, checkpoint=names)
    return build_tiny(**zoo_case, train_cfg=train_cfg).train()


def assert_bit_equal(found, expected):
    assert found.keys() == expected.keys()
    different = [
        key for key in expected if not torch.equal(found[key], expected[key])
    ]
    assert different == []


@needs_checkpointing
@each_model(NAMES)
def test_bit_equal(zoo_case, build_tiny, make_batch):
    batch = make_batch(size=(64, 96))
    # Half of them under autocast.
    autocast = zoo_case['backbone']['type'] in ('ResNetV1c', 'SwinTransformer')
    model = build_checkpointed(build_tiny, zoo_case)
    expected = step(model, batch, autocast)
    for names in WAYS:
        model = build_checkpointed(build_tiny, zoo_case, names)
        assert_bit_equal(step(model, batch, autocast), expected)


@needs_checkpointing
@pytest.mark.needs_torch('freed_storages')
@each_model(NAMES[:2])
def test_takes_less_memory(zoo_case, build_tiny, make_batch):
    batch = make_batch(size=(128, 128))
    peaks = {}
    for names in ((), *WAYS):
        model = build_checkpointed(build_tiny, zoo_case, names, (0.75, 1.0))
        peaks[names] = peak_live_bytes(lambda m=model: step(m, batch))
    assert all(peaks[names] < 0.9 * peaks[()] for names in WAYS), peaks


@needs_checkpointing
def test_neck_cumulative_and_frozen_statistics(build_tiny, make_batch):
    neck = dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=2)
    neck['norm_cfg'] = dict(type='BN')
    found = []
    for names in ((), WAYS[2]):
        model = build_checkpointed(build_tiny, dict(neck=neck), names)
        model.backbone.bn1.momentum = None
        model.backbone.norm_eval = True
        model.backbone.train()
        model.neck.fpn_convs[0].bn.momentum = None
        found.append(step(model, make_batch()))
        assert model.neck.fpn_convs[0].bn.momentum is None
    assert_bit_equal(*found)


@needs_checkpointing
def test_what_is_computed_again(build_tiny, make_batch):
    batch = make_batch()

    def calls(names):
        model = build_checkpointed(build_tiny, names=names)
        counts = []
        for module in (model.backbone.conv1, model.backbone.layer1[0].conv1):
            calls = []
            counts.append(calls)
            module.register_forward_hook(lambda *_, c=calls: c.append(1))
        step(model, batch)
        return tuple(map(len, counts))

    # Three scales; the highest is not among those of 'scales'.
    assert calls(()) == (3, 3)
    assert calls(('scales',)) == (5, 5)
    assert calls(('backbone',)) == (3, 6)
    assert calls(('scales', 'backbone')) == (5, 8)


@needs_checkpointing
def test_leaves_nothing_behind(build_tiny, make_batch):
    model = build_checkpointed(build_tiny, names=WAYS[2])

    def state():
        momenta = [getattr(m, 'momentum', None) for m in model.modules()]
        return momenta, {n: set(vars(m)) for n, m in model.named_modules()}

    before = state()
    inputs, samples = make_batch()
    with pytest.raises(RuntimeError, match='channels'):
        model.loss(torch.randn(1, 4, 64, 64), samples)
    assert state() == before
    losses = model.loss(inputs, samples)
    assert state() == before
    losses['decode.loss_ce'].backward()
    assert state() == before
    # Copies, such as those of an exponential average, run their own blocks.
    copied = copy.deepcopy(model)
    copied.zero_grad()
    step(copied, (inputs, samples))
    assert copied.backbone.bn1.num_batches_tracked == 6
    assert model.backbone.bn1.num_batches_tracked == 3


@needs_checkpointing
def test_backward_twice_over_one_graph(build_tiny, make_batch):
    inputs, samples = make_batch()
    gradients = []
    for names in ((), WAYS[2]):
        model = build_checkpointed(build_tiny, names=names)
        loss = model.loss(inputs, samples)['decode.loss_ce']
        loss.backward(retain_graph=True)
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
        assert model.backbone.bn1.num_batches_tracked == 3
    assert_bit_equal(*gradients)


def test_synchronised_statistics_are_frozen_too():
    """Their layer asserts that it has a counter, on any device."""
    layer = nn.SyncBatchNorm(2)
    counter = layer.num_batches_tracked
    with FrozenStatistics(layer):
        assert layer.momentum == 0
        layer.num_batches_tracked.add_(1)
    assert layer.momentum == 0.1
    assert layer.num_batches_tracked is counter
    assert counter == 0
