"""Parts of mmseg's models that take images of any size here."""

import pytest
import torch
from mmseg.models.backbones import MAE, BEiT, HRNet
from mmseg.models.backbones.beit import BEiTAttention
from mmseg.models.decode_heads import LRASPPHead
from test_models.cases import BN, learned

from hmsa_mmseg.models import (
    AnySizeBEiT,
    AnySizeLRASPPHead,
    AnySizeMAE,
    SingleResizeHRNet,
)
from hmsa_mmseg.models.backbones.any_size_beit import resized_bias

each_pair = pytest.mark.parametrize(
    ('stock', 'own'), [(BEiT, AnySizeBEiT), (MAE, AnySizeMAE)]
)


def build(kind, img_size, **kwargs):
    torch.manual_seed(1)
    model = kind(
        img_size=img_size,
        embed_dims=8,
        num_layers=3,
        num_heads=2,
        out_indices=(0, 2),
        final_norm=True,
        **kwargs,
    )
    for name, parameter in model.named_parameters():
        if 'bias' in name or name == 'pos_embed':
            torch.nn.init.normal_(parameter)
    return model


@each_pair
def test_equal_at_the_size_they_are_made_for(stock, own):
    reference, model = build(stock, (48, 64)), build(own, (48, 64))
    assert reference.state_dict().keys() == model.state_dict().keys()
    model.load_state_dict(reference.state_dict())
    inputs = torch.randn(2, 3, 48, 64)
    for found, expected in zip(model(inputs), reference(inputs)):
        assert torch.equal(found, expected)


@each_pair
def test_another_size_is_that_of_a_model_made_for_it(stock, own):
    """Of constant tables, whose interpolation is known."""
    model, reference = build(own, (48, 64)), build(stock, (80, 32))
    state = model.state_dict()
    for key, value in reference.state_dict().items():
        if key.endswith('relative_position_index'):
            state[key] = value
        elif key.endswith('relative_position_bias_table'):
            # Constant, but for the class token's three.
            state[key][:-3] = state[key][0]
            extra = state[key][-3:]
            state[key] = torch.cat(
                (state[key][:1].expand(len(value) - 3, -1), extra)
            )
        elif key == 'pos_embed':
            state[key][:, 1:] = state[key][:, 1:2]
            state[key] = torch.cat(
                (
                    state[key][:, :1],
                    state[key][:, 1:2].expand(-1, value.shape[1] - 1, -1),
                ),
                dim=1,
            )
    reference.load_state_dict(state)
    inputs = torch.randn(2, 3, 83, 45)  # seen as 80 x 32
    for found, expected in zip(model(inputs), reference(inputs)):
        assert found.shape == (2, 8, 5, 2)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    sum(out.square().mean() for out in model(inputs)).backward()
    assert learned(model) == {name for name, _ in model.named_parameters()}


def test_biases_by_position():
    """A table that is linear in the offset stays so, end to end."""
    attn = BEiTAttention(2, 1, (3, 5))
    with torch.no_grad():
        # As wide at the ends for any size: fractions of the image.
        rows = torch.linspace(-1, 1, 5)[:, None].expand(5, 9)
        attn.relative_position_bias_table[:-3, 0] = rows.flatten()
        attn.relative_position_bias_table[-3:, 0] = torch.tensor(
            [10.0, 20.0, 30.0]
        )
    grid = (9, 2)
    index = BEiTAttention(1, 1, grid).relative_position_index
    bias = resized_bias(attn, grid, index)
    assert bias.shape == (1, 19, 19)
    assert torch.equal(bias[0, 0, 1:], torch.full((18,), 10.0))
    assert torch.equal(bias[0, 1:, 0], torch.full((18,), 20.0))
    assert bias[0, 0, 0] == 30
    y = torch.arange(9).repeat_interleave(2)
    offsets = y[:, None] - y[None, :]
    found = bias[0, 1:, 1:]
    # Bicubic interpolation bends a line only next to its ends.
    assert torch.equal(found == 0, offsets == 0)
    torch.testing.assert_close(found[offsets == 8], torch.ones(4))
    torch.testing.assert_close(found[offsets == -8], -torch.ones(4))
    torch.testing.assert_close(found, -found.T)
    inner = offsets.abs() == 4
    torch.testing.assert_close(
        found[inner], offsets[inner] / 8, rtol=0, atol=0.02
    )


def test_hrnet():
    """At other sizes test_golden.py compares it with the authors'."""
    stages = {
        f'stage{i}': dict(
            num_modules=1,
            num_branches=i,
            block='BOTTLENECK' if i == 1 else 'BASIC',
            num_blocks=(1,) * i,
            num_channels=(4, 8, 12, 16)[:i],
        )
        for i in range(1, 5)
    }
    cfg = dict(extra=stages, norm_cfg=BN, frozen_stages=1, norm_eval=True)
    stock, own = HRNet(**cfg), SingleResizeHRNet(**cfg)
    assert list(own.state_dict()) == list(stock.state_dict())
    own.load_state_dict(stock.state_dict(), strict=True)
    # mmseg's returns nothing.
    assert own.train() is own
    stock.train()
    x = torch.randn(2, 3, 64, 96)
    for mine, theirs in zip(own(x), stock(x)):
        assert torch.equal(mine, theirs)
    assert not own.stage4[0].branches[0][0].bn1.training  # norm_eval
    assert not own.conv1.weight.requires_grad  # frozen_stages
    assert own.eval() is own


ARGS = dict(
    in_channels=(4, 4, 8),
    in_index=(0, 1, 2),
    channels=8,
    branch_channels=(2, 4),
    input_transform='multiple_select',
    num_classes=3,
    norm_cfg=BN,
)


def make_feats(height, width):
    return [
        torch.randn(2, channels, height * factor, width * factor)
        for channels, factor in ((4, 4), (4, 2), (8, 1))
    ]


def test_lraspp_head():
    stock, own = LRASPPHead(**ARGS).eval(), AnySizeLRASPPHead(**ARGS).eval()
    own.load_state_dict(stock.state_dict())
    feats = make_feats(70, 90)
    assert torch.equal(own(feats), stock(feats))
    feats = torch.randn(2, 8, 32, 64)
    found = own.image_pool[0](feats)
    # 49 columns at 0; the next at 20 would not fit.
    expected = feats[:, :, :, :49].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(found, expected)
    assert own(make_feats(3, 5)).shape == (2, 3, 12, 20)
