"""`ChannelsLastHook` changes how weights lie in memory, and no result."""

from types import SimpleNamespace

import torch
from mmengine.model import MMDistributedDataParallel
from mmseg.registry import HOOKS
from torch import nn

from hmsa_mmseg.engine import ChannelsLastHook


def convert(model, wrapped=False):
    runner = SimpleNamespace(model=model)
    if wrapped:
        runner.model = MMDistributedDataParallel.__new__(
            MMDistributedDataParallel
        )
        nn.Module.__init__(runner.model)
        runner.model.module = model
    HOOKS.build(dict(type='ChannelsLastHook')).before_train(runner)


def test_same_loss_and_gradients():
    assert HOOKS.get('ChannelsLastHook') is ChannelsLastHook
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
    ).double()
    inputs = torch.rand(2, 3, 9, 7, dtype=torch.double)
    found = []
    for wrapped in (None, False, True):
        if wrapped is not None:
            convert(model, wrapped)
        model.zero_grad()
        loss = model(inputs).square().sum()
        loss.backward()
        found.append([loss, *(p.grad.clone() for p in model.parameters())])
    last = torch.channels_last
    assert model(inputs).is_contiguous(memory_format=last)
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-12, atol=1e-12)
