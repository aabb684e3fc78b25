"""`model.train_cfg.stats_scale` and `norm_eval`: whose statistics count."""

import copy

import pytest
import torch
from test_models.cases import HEADS, build_head
from torch import nn

from hmsa_mmseg.models.scale_fusion import resize_image

SCALES = (0.5, 1.0)
with_and_without_checkpoint = pytest.mark.parametrize(
    'checkpoint',
    [
        (),
        pytest.param(
            ('scales', 'backbone'),
            marks=pytest.mark.needs_torch('checkpointing'),
        ),
    ],
)


@pytest.fixture
def build(tiny_model_cfg):
    """Return a function that builds a model for training."""

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


def step(model, inputs, samples):
    model.zero_grad()
    losses = model.loss(inputs.double(), copy.deepcopy(samples))
    loss = sum(v for key, v in losses.items() if 'loss' in key)
    loss.backward()
    return loss, [p.grad.clone() for p in model.parameters()]


@with_and_without_checkpoint
@pytest.mark.parametrize('name', HEADS)
def test_statistics_are_those_of_one_scale(
    name, checkpoint, build, make_batch
):
    inputs, samples = make_batch()
    for scale in SCALES:
        model = build(name, stats_scale=scale, checkpoint=checkpoint)
        other = copy.deepcopy(model)
        plain = build(name)
        # Only what is remembered differs, not what is learned.
        torch.testing.assert_close(
            step(model, inputs, samples), step(plain, inputs, samples)
        )
        feats = other.extract_feat(resize_image(inputs.double(), scale, False))
        other.decode_head.forward_seg_heads(feats)
        found, expected = statistics(model), statistics(other)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        mixed = statistics(plain)
        assert any(not found[key].equal(mixed[key]) for key in found)


def test_attention_sees_all_scales(build, make_batch):
    models = [build('hierarchical', stats_scale=s) for s in (None, 1.0)]
    for model in models:
        step(model, *make_batch())
    branches = [dict(m.decode_head.scale_attn.named_buffers()) for m in models]
    assert branches[0]
    torch.testing.assert_close(*branches, rtol=0, atol=0)


@with_and_without_checkpoint
@pytest.mark.parametrize('name', HEADS)
def test_norm_eval(name, checkpoint, build, make_batch):
    inputs, samples = make_batch()
    model, plain = (
        build(name, norm_eval=flag, checkpoint=checkpoint)
        for flag in (True, False)
    )
    # As a test normalises: with each layer by itself in evaluation mode.
    for key, layer in plain.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and 'scale_attn' not in key:
            layer.eval()
    before = statistics(model)
    torch.testing.assert_close(
        step(model, inputs, samples), step(plain, inputs, samples)
    )
    after = statistics(model)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close([*model.buffers()], [*plain.buffers()])
    # mmseg's loops switch after each validation.
    modes = [module.training for module in model.modules()]
    model.eval()
    assert not any(module.training for module in model.modules())
    model.train()
    assert [module.training for module in model.modules()] == modes
    assert model.training
