"""Hooks of a few lines, and what is plain and finite in a checkpoint."""

import copy
import itertools
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmseg.registry import HOOKS
from torch import nn
from torch._dynamo.utils import counters
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


@pytest.fixture
def ddp(tmp_path):
    """Return a function that wraps a model in DDP, of one process."""
    file = f'file://{tmp_path}/meeting'
    dist.init_process_group('gloo', init_method=file, rank=0, world_size=1)
    yield MMDistributedDataParallel
    dist.destroy_process_group()


needs_compile = pytest.mark.needs_torch('compile_module')
COMPILED = dict(compile=dict(backend='aot_eager', fullgraph=True))


@pytest.mark.parametrize(
    ('options', 'graphs', 'train_cfg'),
    [
        (dict(name='ChannelsLastHook'), 0, dict()),
        pytest.param(COMPILED, 2, dict(), marks=needs_compile),
        pytest.param(
            # The lower scale twice: statistics stand still in the second run.
            *(COMPILED, 3, dict(checkpoint=('scales',))),
            marks=needs_compile,
        ),
        pytest.param(
            *(COMPILED, 2, dict(stats_scale=1.0)), marks=needs_compile
        ),
        pytest.param(
            *(dict(compile=True), 2, dict()),
            marks=[needs_compile, pytest.mark.slow],
        ),
    ],
)
@pytest.mark.fault(
    'channels_last under DDP, which has strides of its own',
    'gradients are right from the first step on',
)
def test_training_preparation(
    options, graphs, train_cfg, build_tiny, make_batch, ddp
):
    torch._dynamo.reset()  # of the graphs of other tests
    counters.clear()
    model = build_tiny(train_cfg=dict(scales=(0.5, 1.0), **train_cfg)).double()
    plain = copy.deepcopy(model)
    wrapped = ddp(model)
    keys = list(model.state_dict())

    def step(model, seed, size=(64, 64)):
        inputs, samples = make_batch(size=size, seed=seed)
        model.train().zero_grad()
        call = wrapped if model is wrapped.module else model
        losses = call(inputs.double(), samples, mode='loss')
        model.parse_losses(losses)[0].backward()
        grads = [p.grad for p in model.parameters()]
        return [*losses.values(), *grads, *model.buffers()]

    def predict(model):
        inputs, _ = make_batch(size=(48, 80))
        with torch.no_grad():
            return [model.eval().encode_decode(inputs.double())]

    runner = SimpleNamespace(model=wrapped)
    prepare = hook(**{'name': 'TrainingPreparationHook', **options})
    prepare.before_train(runner)
    weight = model.backbone.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert list(model.state_dict()) == keys

    def same(function, *args):
        torch.testing.assert_close(
            *(function(one, *args) for one in (model, plain)),
            rtol=1e-9,
            atol=1e-12,
        )
        return counters['stats']['unique_graphs']

    assert [same(step, 0), same(step, 1)] == [graphs, graphs]
    prepare.before_val_epoch(runner)
    assert same(predict) == graphs
    prepare.after_val_epoch(runner, {})
    assert same(step, 2) == graphs
    prepare.after_train(runner)
    assert same(step, 3, (32, 96)) == graphs


@needs_compile
def test_a_compiled_run_is_resumed(
    run, build_tiny, make_batch, tmp_path, load
):
    torch._dynamo.reset()
    counters.clear()

    def loader(**kwargs):
        images, samples = make_batch(**kwargs)
        pairs = [
            dict(inputs=image, data_samples=sample)
            for image, sample in zip(images, samples)
        ]
        return dict(dataset=pairs, batch_size=2, num_workers=0)

    def train(name, hooks=(), **kwargs):
        torch.manual_seed(0)
        return run(
            name,
            model=build_tiny(),
            train_dataloader=dict(
                **loader(batch_size=6), sampler=dict(type='InfiniteSampler')
            ),
            val_dataloader=dict(
                **loader(size=(48, 80)),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            custom_hooks=list(hooks),
            **kwargs,
        ).model.state_dict()

    hooks = [dict(type='TrainingPreparationHook', **COMPILED)]
    plain, whole = train('plain'), train('whole', hooks)
    assert counters['stats']['unique_graphs'] == 2
    start = dict(load_from=str(tmp_path / 'whole' / 'iter_2.pth'), resume=True)
    resumed = train('resumed', hooks, **start)
    assert plain.keys() == load(start['load_from'])['state_dict'].keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
        torch.testing.assert_close(value, plain[key], rtol=1e-3, atol=1e-4)


@needs_compile
@pytest.mark.fault(
    'a compiled backbone with checkpoint of its blocks',
    'refused before the first iteration',
)
def test_training_preparation_that_is_refused(build_tiny):
    model = build_tiny(
        train_cfg=dict(scales=(0.5, 1.0), checkpoint=('backbone',))
    )
    prepare = hook('TrainingPreparationHook', compile=True)
    with pytest.raises(ValueError, match=r"checkpoint=\('backbone',\)"):
        prepare.before_train(SimpleNamespace(model=model))
    with pytest.raises(ValueError, match=r"compile must be .* got 'inductor'"):
        hook('TrainingPreparationHook', compile='inductor')


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
