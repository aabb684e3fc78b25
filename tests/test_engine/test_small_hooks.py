"""Hooks of a few lines, and what is plain and finite in a checkpoint."""

import copy
import itertools
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmseg.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.engine.plain import make_plain, to_plain
from hmsa_mmseg.models import AccumulatingTTAModel


class Wrapped(MMDistributedDataParallel):
    """A wrapper, by its type, without processes."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


def identity(model):
    return model


def hook(name, **kwargs):
    return HOOKS.build(dict(type=name, **kwargs))


@pytest.mark.parametrize('wrap', [identity, Wrapped])
def test_channels_last(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
    ).double()
    inputs = torch.rand(2, 3, 9, 7, dtype=torch.double)

    def step():
        model.zero_grad()
        loss = model(inputs).square().sum()
        loss.backward()
        return [loss, *(p.grad.clone() for p in model.parameters())]

    before = step()
    runner = SimpleNamespace(model=wrap(model))
    hook('ChannelsLastHook').before_train(runner)
    last = torch.channels_last
    assert model(inputs).is_contiguous(memory_format=last)
    torch.testing.assert_close(step(), before, rtol=1e-12, atol=1e-12)


def count_norms(model):
    return sum(isinstance(m, _BatchNorm) for m in model.modules())


@pytest.mark.parametrize(
    'wrap', [identity, lambda model: Wrapped(AccumulatingTTAModel(model))]
)
def test_inference_preparation(wrap, build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, _ = make_batch()
    with torch.no_grad():
        expected = model.encode_decode(inputs)
    runner = SimpleNamespace(model=wrap(model))
    prepare = hook('InferencePreparationHook')
    before = copy.deepcopy(model.state_dict())

    def within(module):
        while hasattr(module, 'module'):
            module = module.module
        return module

    for stage in ('train', 'val'):
        getattr(prepare, f'before_{stage}')(runner)
        getattr(prepare, f'after_{stage}')(runner)
    assert model.state_dict().keys() == before.keys()
    partly = hook('InferencePreparationHook', fold_bn=False)
    partly.before_test_epoch(runner)
    prepared = within(runner.model)
    assert count_norms(prepared) > 0
    weight = prepared.backbone.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    partly.after_test_epoch(runner)
    prepare.before_test_epoch(runner)
    prepared = within(runner.model)
    assert count_norms(prepared) == 0
    with torch.no_grad():
        torch.testing.assert_close(
            prepared.encode_decode(inputs), expected, rtol=0, atol=1e-5
        )
    prepare.after_test_epoch(runner)
    assert within(runner.model) is model
    assert count_norms(model) > 0


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.fault(
    'a run with dropout is resumed',
    'it ends with the weights of the uninterrupted one, bit for bit',
)
def test_dropout_is_that_of_the_uninterrupted_run(run, tmp_path, by_epoch):
    def ends_alike(name, **options):
        options.update(dropout=0.5, max_iters=6)
        options.update(max_epochs=4 if by_epoch else None)
        whole = run(name, **options).model.state_dict()
        file = 'epoch_2.pth' if by_epoch else 'iter_2.pth'
        start = dict(load_from=str(tmp_path / name / file), resume=True)
        found = run('resumed', **start, **options).model.state_dict()
        return all(torch.equal(found[key], whole[key]) for key in whole)

    assert ends_alike('seeded', custom_hooks=[dict(type='IterSeedHook')])
    assert not ends_alike('not_seeded')


def test_seeds_of_iterations_differ():
    seeds = set()
    for seed, rank, iteration in itertools.product(range(3), repeat=3):
        runner = SimpleNamespace(seed=seed, rank=rank, iter=iteration)
        hook('IterSeedHook').before_train_iter(runner, 0)
        seeds.add(torch.initial_seed())
    assert len(seeds) == 27
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (np.float64(0.25), 0.25),
        (np.bool_(False), False),
        (np.str_('road'), 'road'),
        (np.arange(3), [0, 1, 2]),
        ((np.int8(1), 'a', None), (1, 'a', None)),
        ({np.int64(1): [np.float32(2), {3}]}, {1: [2.0, {3}]}),
        ([1j, b'a', True, torch.float16], [1j, b'a', True, torch.float16]),
        (torch.Size([2]), torch.Size([2])),
    ],
)
def test_plain_values(value, expected, messages):
    found = to_plain(value, path='meta')
    assert repr(found) == repr(expected)
    assert messages() == []


@pytest.mark.fault(
    'an object in a checkpoint that weights_only refuses',
    'saved with a warning that names it',
)
def test_other_objects_are_kept_with_a_warning(messages):
    tensor, foreign = torch.ones(2), SimpleNamespace()
    state = OrderedDict(state=[tensor])
    checkpoint = dict(optimizer=state, notes=[dict(author=foreign)])
    make_plain(checkpoint)
    # Containers are copied, tensors are not.
    plain = checkpoint['optimizer']
    assert type(plain) is OrderedDict
    assert plain['state'] is not state['state']
    assert plain['state'][0] is tensor
    assert checkpoint['notes'][0]['author'] is foreign
    (message,) = messages()
    assert 'notes.author is a SimpleNamespace' in message
