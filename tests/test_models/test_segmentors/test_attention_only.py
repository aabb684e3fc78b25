"""Training the attention branch alone, on a frozen model."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from oracles.live_bytes import peak_live_bytes
from test_models.cases import build_head, learned, step

from hmsa_mmseg.analysis.complexity import count_flops

ATTN = 'decode_head.scale_attn.'
AUX = dict(type='FCNHead', in_channels=32, in_index=2, channels=8)
AUX.update(num_convs=1, num_classes=5, norm_cfg=dict(type='BN'))
LOSS_SCALE = dict(type='CrossEntropyLoss', loss_weight=0.05)
FROZEN = dict(scales=(0.5, 1.0), attention_only=True)
NAMES = ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'mit_segformer']
each_model = pytest.mark.parametrize('zoo_case', NAMES, indirect=True)


def build(build_tiny, zoo_case, train_cfg=FROZEN, **decode_head):
    torch.manual_seed(1)
    zoo_case = dict(zoo_case)
    if zoo_case.get('backbone', {}).get('type') == 'ResNetV1c':
        zoo_case['auxiliary_head'] = dict(AUX)
    return build_tiny(**zoo_case, train_cfg=train_cfg, decode_head=decode_head)


@each_model
def test_only_attention_changes(zoo_case, build_tiny, make_batch):
    model = build(build_tiny, zoo_case, loss_scale=LOSS_SCALE)
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


@each_model
def test_gradients_are_those_of_the_whole_model(
    zoo_case, build_tiny, make_batch
):
    """With statistics fixed and dropout off there, as when frozen."""
    batch = make_batch(size=(64, 96))
    frozen = build(build_tiny, zoo_case, loss_scale=LOSS_SCALE)
    whole = build(
        build_tiny,
        zoo_case,
        train_cfg=dict(scales=(0.5, 1.0)),
        loss_scale=LOSS_SCALE,
    )
    frozen.train()
    whole.eval().decode_head.scale_attn.train()
    logged = []
    for model in (frozen, whole):
        total, log_vars = model.parse_losses(model.loss(*batch))
        total.backward()
        logged.append(log_vars)
    expected = dict(whole.named_parameters())
    for name, param in frozen.named_parameters():
        if name.startswith(ATTN):
            # Without gradients PyTorch takes other kernels for MiT.
            torch.testing.assert_close(param.grad, expected[name].grad)
            assert param.grad.abs().sum() > 0, name
        else:
            assert param.grad is None, name
            assert not param.requires_grad, name
    left_out = {'scale_0.5.loss_ce', 'scale_1.loss_ce'}
    if frozen.with_auxiliary_head:
        left_out |= {'aux.loss_ce', 'aux.acc_seg'}
    assert set(logged[1]) - set(logged[0]) == left_out
    shared = set(logged[0]) - {'loss'}
    for key in shared:
        torch.testing.assert_close(logged[0][key], logged[1][key])


def test_modes(build_tiny):
    model = build(build_tiny, {})

    def training():
        return {
            name
            for name, module in model.named_modules()
            if module.training
            and isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Dropout2d))
        }

    expected = {f'{ATTN}bn0', f'{ATTN}bn1'}
    assert training() == expected
    assert model.eval() is model
    assert not training()
    assert not model.training
    assert model.train() is model
    assert model.training
    assert training() == expected


@pytest.mark.needs_torch('freed_storages')
@pytest.mark.parametrize('zoo_case', NAMES[:2], indirect=True)
def test_costs_less(zoo_case, build_tiny, make_batch):
    batch = make_batch(size=(64, 64))

    costs = []
    for train_cfg in (FROZEN, dict(scales=(0.5, 1.0))):
        model = build(build_tiny, zoo_case, train_cfg)
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


def test_losses_without_gradients_are_all_there(build_tiny, make_batch):
    model = build(build_tiny, {}, loss_scale=LOSS_SCALE).eval()
    with torch.no_grad():
        losses = model.loss(*make_batch())
    assert {'scale_0.5.loss_ce', 'scale_1.loss_ce'} <= losses.keys()


def test_attention_to_scale(tiny_model_cfg, make_batch):
    train_cfg = dict(FROZEN, scales=(0.5, 1.0, 2.0))
    model = build_head(
        tiny_model_cfg, 'attention-to-scale', train_cfg=train_cfg
    )
    step(model, make_batch())
    names = {name for name, _ in model.named_parameters()}
    assert learned(model) == {name for name in names if ATTN in name}
