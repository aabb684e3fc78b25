"""Gradient checkpointing changes memory, and nothing else to the last bit."""

import contextlib
import copy

import pytest
import torch
from oracles.live_bytes import peak_live_bytes
from torch import nn

pytestmark = pytest.mark.needs_torch('checkpointing')

WAYS = [('scales',), ('backbone',), ('scales', 'backbone')]
# HRNet's modules change the list they are given, and are fed several maps;
# ResNet has a head with dropout; MiT's blocks take sizes beside tensors.
NAMES = ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'mit_segformer', 'swin_uper']
each_model = pytest.mark.parametrize('zoo_case', NAMES, indirect=True)


def build(build_tiny, zoo_case, names=(), scales=(0.5, 0.75, 1.0)):
    torch.manual_seed(1)
    train_cfg = dict(scales=scales, checkpoint=names)
    return build_tiny(**zoo_case, train_cfg=train_cfg)


def lively(zoo_case):
    """Add dropout and stochastic depth where the backbone has them."""
    backbone = dict(zoo_case['backbone'])
    if backbone['type'] in ('MixVisionTransformer', 'SwinTransformer'):
        backbone.update(drop_rate=0.2, drop_path_rate=0.5)
    return dict(zoo_case, backbone=backbone)


def step(model, batch, autocast=False):
    """Return all that a training step leaves behind."""
    inputs, samples = batch
    torch.manual_seed(2)
    context = contextlib.nullcontext()
    if autocast:
        context = torch.autocast('cpu', dtype=torch.bfloat16)
    with context:
        losses = model.train().loss(inputs, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    found = {f'loss of {key}': value for key, value in losses.items()}
    for name, param in model.named_parameters():
        if param.grad is not None:
            found[f'gradient of {name}'] = param.grad
    found.update(model.named_buffers())
    found['random state'] = torch.get_rng_state()
    return found


def assert_bit_equal(found, expected):
    assert found.keys() == expected.keys()
    different = [
        key for key in expected if not torch.equal(found[key], expected[key])
    ]
    assert different == []


def count_calls(modules):
    calls = []
    for module in modules:
        module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@each_model
def test_bit_equal(zoo_case, build_tiny, make_batch):
    zoo_case = lively(zoo_case)
    batch = make_batch(size=(64, 96))
    # Half of them under autocast.
    autocast = zoo_case['backbone']['type'] in ('ResNetV1c', 'SwinTransformer')
    expected = step(build(build_tiny, zoo_case), batch, autocast)
    for names in WAYS:
        found = step(build(build_tiny, zoo_case, names), batch, autocast)
        assert_bit_equal(found, expected)


@pytest.mark.needs_torch('freed_storages')
@pytest.mark.parametrize('zoo_case', NAMES[:2], indirect=True)
def test_takes_less_memory(zoo_case, build_tiny, make_batch):
    batch = make_batch(size=(128, 128))
    peaks = {}
    for names in ((), *WAYS):
        model = build(build_tiny, zoo_case, names, scales=(0.75, 1.0))
        peaks[names] = peak_live_bytes(lambda m=model: step(m, batch))
    assert all(peaks[names] < 0.9 * peaks[()] for names in WAYS), peaks


def test_two_steps_in_a_row(build_tiny, make_batch):
    """The second step sees the statistics that the first one left."""
    batch = make_batch()
    models = [build(build_tiny, {}, cp) for cp in ((), WAYS[2])]
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            step(model, batch)
            optimizer.step()
    plain, checkpointed = (model.state_dict() for model in models)
    assert_bit_equal(checkpointed, plain)
    assert plain['backbone.bn1.num_batches_tracked'] == 6


def test_neck_cumulative_and_frozen_statistics(build_tiny, make_batch):
    neck = dict(
        type='FPN',
        in_channels=[8, 16],
        out_channels=16,
        num_outs=2,
        norm_cfg=dict(type='BN'),
    )
    found = []
    for checkpoint in ((), WAYS[2]):
        model = build(build_tiny, dict(neck=neck), checkpoint)
        model.backbone.bn1.momentum = None
        model.backbone.norm_eval = True
        model.neck.fpn_convs[0].bn.momentum = None
        found.append(step(model, make_batch()))
        assert model.neck.fpn_convs[0].bn.momentum is None
    assert_bit_equal(*found)


def test_what_is_computed_again(build_tiny, make_batch):
    batch = make_batch()

    def calls(names):
        model = build(build_tiny, {}, names)
        stem = count_calls([model.backbone.conv1])
        inner = count_calls([model.backbone.layer1[0].conv1])
        step(model, batch)
        return len(stem), len(inner)

    # Three scales; the highest is not among those of 'scales'.
    assert calls(()) == (3, 3)
    assert calls(('scales',)) == (5, 5)
    assert calls(('backbone',)) == (3, 6)
    assert calls(('scales', 'backbone')) == (5, 8)


def test_leaves_nothing_behind(build_tiny, make_batch):
    model = build(build_tiny, {}, WAYS[2])
    before = {n: set(vars(m)) for n, m in model.named_modules()}
    momenta = [m.momentum for m in model.modules() if hasattr(m, 'momentum')]
    inputs, samples = make_batch()
    losses = model.loss(inputs, samples)
    assert {n: set(vars(m)) for n, m in model.named_modules()} == before
    losses['decode.loss_ce'].backward()
    assert {n: set(vars(m)) for n, m in model.named_modules()} == before
    after = [m.momentum for m in model.modules() if hasattr(m, 'momentum')]
    assert after == momenta
    # Copies, such as those of an exponential average, run their own blocks.
    copied = copy.deepcopy(model)
    copied.zero_grad()
    step(copied, (inputs, samples))
    assert copied.backbone.bn1.num_batches_tracked == 6
    assert model.backbone.bn1.num_batches_tracked == 3


def test_nothing_is_computed_again_after_an_error(build_tiny, make_batch):
    model = build(build_tiny, {}, ('backbone',))
    with pytest.raises(RuntimeError, match='channels'):
        model.loss(torch.randn(1, 4, 64, 64), make_batch()[1])
    assert all('forward' not in vars(m) for m in model.modules())


def test_backward_twice_over_one_graph(build_tiny, make_batch):
    inputs, samples = make_batch()
    gradients = []
    for names in ((), ('scales', 'backbone')):
        model = build(build_tiny, {}, names)
        loss = model.loss(inputs, samples)['decode.loss_ce']
        loss.backward(retain_graph=True)
        loss.backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters()}
        )
        assert model.backbone.bn1.num_batches_tracked == 3
    assert_bit_equal(*gradients)


def test_without_gradients_nothing_changes(build_tiny, make_batch):
    inputs, samples = make_batch()
    found = []
    for names in ((), ('scales', 'backbone')):
        model = build(build_tiny, {}, names).eval()
        with torch.no_grad():
            found.append(model.loss(inputs, samples))
            found[-1]['logits'] = model.encode_decode(inputs)
    assert_bit_equal(*found)


def test_synchronised_statistics_are_frozen_too():
    """Their layer asserts that it has a counter, on any device."""
    from hmsa_mmseg.models.utils import FrozenStatistics

    layer = nn.SyncBatchNorm(2)
    counter = layer.num_batches_tracked
    with FrozenStatistics(layer):
        assert layer.momentum == 0
        layer.num_batches_tracked.add_(1)
    assert layer.momentum == 0.1
    assert layer.num_batches_tracked is counter
    assert counter == 0
