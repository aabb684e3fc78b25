import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones import HRNet
from mmseg.registry import MODELS


def extra(*channels):
    stages = {}
    for i in range(1, 5):
        stages[f'stage{i}'] = dict(
            num_modules=1,
            num_branches=i,
            block='BOTTLENECK' if i == 1 else 'BASIC',
            num_blocks=(1,) * i,
            num_channels=channels[:i],
        )
    return stages


CFG = dict(extra=extra(4, 8, 12, 16), norm_cfg=dict(type='BN'))


def randomize_(model):
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    model.eval()
    return model


@pytest.fixture
def pair():
    """mmseg's HRNet and ours, with the same weights."""
    stock = randomize_(HRNet(**CFG))
    ours = MODELS.build(dict(type='SingleResizeHRNet', **CFG))
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours.eval()


@torch.no_grad()
def test_bit_equal_to_mmseg_at_multiples_of_32(pair):
    stock, ours = pair
    assert list(ours.state_dict()) == list(stock.state_dict())
    x = torch.randn(2, 3, 64, 96)
    for mine, theirs in zip(ours(x), stock(x)):
        assert torch.equal(mine, theirs)


def conv_bn(x, state, conv, bn, stride=1):
    """Convolution and batch norm from the entries of a state dict."""
    weight = state[f'{conv}.weight']
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, var = state[f'{bn}.running_mean'], state[f'{bn}.running_var']
    gain, bias = state[f'{bn}.weight'], state[f'{bn}.bias']
    shape = (1, -1, 1, 1)
    x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return x * gain.view(shape) + bias.view(shape)


def fuse(branches, state):
    """The fusion of four branches as the paper of HRNet draws it."""
    fused = []
    for i, target in enumerate(branches):
        total = torch.zeros_like(target)
        for j, x in enumerate(branches):
            name = f'fuse_layers.{i}.{j}'
            if j > i:  # from a lower resolution: 1x1, then one resize
                x = conv_bn(x, state, f'{name}.0', f'{name}.1')
                size = target.shape[2:]
                x = F.interpolate(x, size, mode='bilinear')
            for step in range(i - j):  # from a higher one: halve it i-j times
                x = conv_bn(
                    x, state, f'{name}.{step}.0', f'{name}.{step}.1', stride=2
                )
                if step < i - j - 1:
                    x = x.relu()
            total = total + x
        fused.append(total.relu())
    return fused


@torch.no_grad()
def test_fusion_equals_a_literal_one_at_odd_sizes(pair):
    ours = pair[1].double()
    module = ours.stage4[0]
    # The branches of an image of 131x203
    sizes = [(33, 51), (17, 26), (9, 13), (5, 7)]
    inputs = [
        torch.randn(2, c, *size, dtype=torch.float64)
        for c, size in zip((4, 8, 12, 16), sizes)
    ]
    branches = [branch(x) for branch, x in zip(module.branches, inputs)]
    expected = fuse(branches, module.state_dict())
    for mine, theirs in zip(module(list(inputs)), expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_train_returns_the_module_and_keeps_mmsegs_modes():
    ours = MODELS.build(
        dict(type='SingleResizeHRNet', frozen_stages=1, norm_eval=True, **CFG)
    )
    assert ours.train() is ours
    assert ours.training
    assert not ours.stage4[0].branches[0][0].bn1.training  # norm_eval
    assert not ours.conv1.weight.requires_grad  # frozen_stages
    assert ours.eval() is ours
    assert not ours.training
