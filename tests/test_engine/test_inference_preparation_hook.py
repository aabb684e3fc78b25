"""The hook that prepares a model before it is tested."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmseg.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.models import AccumulatingTTAModel


def build_hook(**kwargs):
    return HOOKS.build(dict(type='InferencePreparationHook', **kwargs))


def count_norms(model):
    return sum(isinstance(m, _BatchNorm) for m in model.modules())


class _Wrapped(MMDistributedDataParallel):
    """A wrapper, by its type, without processes."""

    def __init__(self, module):
        torch.nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize(
    'wrap',
    [
        lambda model: model,
        AccumulatingTTAModel,
        lambda model: _Wrapped(AccumulatingTTAModel(model)),
    ],
)
def test_prepares_within_wrappers(wrap, build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, _ = make_batch()
    with torch.no_grad():
        expected = model.encode_decode(inputs)
    build_hook().before_test(SimpleNamespace(model=wrap(model)))
    assert count_norms(model) == 0
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_decode(inputs), expected, rtol=0, atol=1e-5
        )


def test_options(build_tiny):
    model = build_tiny().eval()
    hook = build_hook(fold_bn=False, channels_last=True)
    hook.before_test(SimpleNamespace(model=model))
    assert count_norms(model) > 0
    assert model.backbone.conv1.weight.is_contiguous(
        memory_format=torch.channels_last
    )


def test_touches_neither_training_nor_validation(build_tiny):
    model = build_tiny()
    before = copy.deepcopy(model.state_dict())
    hook, runner = build_hook(), SimpleNamespace(model=model)
    for stage in ('train', 'val'):
        getattr(hook, f'before_{stage}')(runner)
        getattr(hook, f'after_{stage}')(runner)
    assert model.state_dict().keys() == before.keys()
    assert count_norms(model) > 0
