"""`cuda_graph=True`, with a stand-in that records and replays on a CPU."""

import contextlib
import copy
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from oracles.recorded_graph import RecordingOnCPU
from test_models.cases import (
    AUX,
    BCE,
    CE,
    FCN,
    HEADS,
    KNET,
    RMI,
    build_head,
    cascade,
)

from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.models.losses import rmi_loss, rmi_tiles
from hmsa_mmseg.models.utils import cuda_graph, graph_recorder
from hmsa_mmseg.models.utils.captured_graph import WARM_UPS
from hmsa_mmseg.models.utils.cuda_graph import MAX_GRAPHS, GraphCache
from hmsa_mmseg.models.utils.graph_recorder import RefusingWaits
from hmsa_mmseg.models.utils.model_state import ModelState

TRAIN_CFG = dict(scales=(0.5, 1.0))
GRAPHED = dict(TRAIN_CFG, cuda_graph=True)
HEAD = dict(HEADS['hierarchical'], loss_scale=dict(CE, loss_weight=0.05))
# Fused features and dropout, sizes beside tensors, and stochastic depth.
NAMES = ['hrnet_fcn-ocr', 'resnet_deeplabv3plus', 'mit_segformer']


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What the log is told of graphs, which run on a CPU."""
    found = []
    monkeypatch.setattr(cuda_graph, '_warn', found.append)
    monkeypatch.setattr(GraphCache, 'recorder_type', RecordingOnCPU)
    return found


def graphs_of(model):
    return list(model.training_graphs.graphs.values())


def losses(model, batch, dtype=None):
    context = contextlib.nullcontext()
    if dtype is not None:
        context = torch.autocast('cpu', dtype=dtype)
    inputs, samples = batch
    with context:
        return model.loss(inputs, copy.deepcopy(samples))


def train(model, steps, dtype=None, accumulate=1, set_to_none=True):
    """Train, and return all that is left behind after each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found = []
    for i, batch in enumerate(steps):
        torch.manual_seed(i)
        values = losses(model, batch, dtype)
        # As a GradScaler does.
        (512 * model.parse_losses(values)[0]).backward()
        seen = {f'loss of {key}': values[key] for key in values}
        for name, param in model.named_parameters():
            if param.grad is not None:
                seen[f'gradient of {name}'] = param.grad.clone()
        seen.update((key, x.clone()) for key, x in model.named_buffers())
        seen['random state'] = torch.get_rng_state()
        found.append(seen)
        if (i + 1) % accumulate == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none)
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(dtype=torch.bfloat16),
        dict(accumulate=2),
        dict(set_to_none=False),
    ],
    ids=str,
)
@pytest.mark.parametrize('zoo_case', NAMES, indirect=True)
def test_training_is_the_same(said, build_tiny, make_batch, zoo_case, options):
    steps = [make_batch(size=(64, 96), seed=seed) for seed in range(5)]
    eager = build_tiny(**zoo_case, decode_head=HEAD, train_cfg=TRAIN_CFG)
    graphed = copy.deepcopy(eager)
    graphed.train_cfg = GRAPHED
    expected = train(eager.train(), steps, **options)
    found = train(graphed.train(), steps, **options)
    assert len(graphs_of(graphed)) == 1, said
    assert_same(found, expected)


@pytest.mark.parametrize(
    ('head', 'seg_head', 'kwargs'),
    [
        ('hierarchical', FCN, dict(auxiliary_head=AUX)),
        ('hierarchical', FCN, dict(auxiliary_head=[AUX, AUX])),
        ('average', cascade(), {}),
        ('attention-to-scale', FCN, {}),
        ('hierarchical', dict(FCN, loss_decode=RMI), {}),
        ('hierarchical', cascade(BCE, loss_decode=RMI), {}),
    ],
    ids=['aux', 'two aux', 'average', 'attention-to-scale', 'rmi', 'cascade'],
)
def test_losses_of_all_kinds(
    said, tiny_model_cfg, make_batch, monkeypatch, head, seg_head, kwargs
):
    """As a GPU computes them, which is not waited for."""
    for module in (rmi_loss, rmi_tiles):
        monkeypatch.setattr(module, 'may_wait', lambda device: False)
    steps = [make_batch(size=(64, 96), seed=seed) for seed in range(4)]
    test_cfg = dict(TRAIN_CFG, mode='whole')
    eager = build_head(
        tiny_model_cfg, head, seg_head, test_cfg=test_cfg, **kwargs
    )
    graphed = copy.deepcopy(eager)
    graphed.train_cfg = GRAPHED
    expected = train(eager.train(), steps)
    assert_same(train(graphed.train(), steps), expected)
    assert len(graphs_of(graphed)) == 1, said


@pytest.fixture
def graphed(build_tiny, make_batch):
    """A model whose losses have a graph for a batch of the usual size."""
    model = build_tiny(decode_head=HEAD, train_cfg=GRAPHED).train()
    for _ in range(2):
        losses(model, make_batch())
    assert len(graphs_of(model)) == 1
    return model


def move(model):
    for param in model.parameters():
        param.data = param.data.clone()


def total(model, batch):
    return model.parse_losses(losses(model, batch))[0]


def test_one_backward_pass_for_each_forward_pass(graphed, make_batch):
    loss = total(graphed, make_batch())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='cuda_graph=False'):
        loss.backward()
    before = total(graphed, make_batch(seed=1))
    total(graphed, make_batch(seed=2)).backward()
    with pytest.raises(RuntimeError, match='cuda_graph=False'):
        before.backward()


def test_graphs_share_memory(graphed, make_batch):
    """What one has left there, another may overwrite."""
    other = dict(size=(64, 72))
    for _ in range(2):
        losses(graphed, make_batch(**other))
    first, second = graphs_of(graphed)
    assert first.recorder is second.recorder
    before = total(graphed, make_batch())
    total(graphed, make_batch(**other)).backward()
    with pytest.raises(RuntimeError, match='cuda_graph=False'):
        before.backward()
    # Gradients are the caller's, to keep as long as he likes.
    kept = [param.grad for param in second.params]
    expected = [grad.clone() for grad in kept]
    for mine in second.grads:
        mine.fill_(float('nan'))
    assert all(map(torch.equal, kept, expected))


def test_hooks_of_parameters_are_called_once(build_tiny, make_batch):
    eager = build_tiny(decode_head=HEAD, train_cfg=TRAIN_CFG).train()
    graphed = copy.deepcopy(eager)
    graphed.train_cfg = GRAPHED
    for model in (eager, graphed):
        for param in model.parameters():
            param.register_hook(lambda grad: 2 * grad)
    steps = [make_batch(seed=seed) for seed in range(3)]
    assert_same(train(graphed, steps), train(eager, steps))
    assert len(graphs_of(graphed)) == 1


def test_a_failed_capture_leaves_nothing(
    build_tiny, make_batch, said, monkeypatch
):
    """Nor casts of weights, which have no values."""
    eager = build_tiny(decode_head=HEAD, train_cfg=TRAIN_CFG).train()
    graphed = copy.deepcopy(eager)
    graphed.train_cfg = GRAPHED
    record, count = RecordingOnCPU.recording, iter(range(2))

    @contextlib.contextmanager
    def recording(self):
        with record(self) as graph:
            yield graph
            if next(count):
                raise RuntimeError('out of memory')

    monkeypatch.setattr(RecordingOnCPU, 'recording', recording)
    steps = [make_batch(seed=seed) for seed in range(3)]
    expected = train(eager, steps, torch.bfloat16)
    assert_same(train(graphed, steps, torch.bfloat16), expected)
    assert 'out of memory' in said[-1]


@pytest.mark.parametrize('is_told', [True, False])
def test_a_capture_that_cuda_ends(monkeypatch, is_told):
    """The allocator is told, if torch has not; with names in CUDA's place."""
    called = []

    @contextlib.contextmanager
    def capture(*args):
        called.append('capture')
        yield
        if len(called) == 1:
            raise RuntimeError('operation failed due to a previous error')

    def end(device, pool):
        called.append('end')
        if is_told:
            raise RuntimeError('not recording to this pool')

    monkeypatch.setattr(graph_recorder, 'capture_graph', capture)
    for name in ('Stream', 'Event', 'current_stream', 'CUDAGraph'):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    for name in ('stream', 'device'):
        monkeypatch.setattr(torch.cuda, name, contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: (0, 1))
    monkeypatch.setattr(torch, 'zeros', lambda *args, device: torch.ones(1))
    for name, function in (
        ('endAllocateToPool', end),
        ('releasePool', lambda *args: called.append('release')),
    ):
        monkeypatch.setattr(torch._C, f'_cuda_{name}', function, raising=False)
    recorder = graph_recorder.CudaRecorder(torch.device('cuda', 0))
    with pytest.raises(RuntimeError, match='previous'), recorder.recording():
        pass
    release = [] if is_told else ['release']
    assert called == ['capture', 'end', *release, 'capture']
    assert not recorder.is_sound


def exchange(model):
    """Another classifier, as for other classes."""
    head = model.decode_head.seg_heads[-1]
    head.conv_seg = copy.deepcopy(head.conv_seg)
    torch.nn.init.normal_(head.conv_seg.weight)


def wrap_anew(model):
    conv = model.decode_head.seg_heads[-1].conv_seg
    conv.weight = torch.nn.Parameter(conv.weight.data)


def settings_of(kind, **settings):
    """Change attributes of the modules of one kind."""

    def change(model):
        found = [x for x in model.modules() if isinstance(x, kind)]
        assert found
        for module in found:
            vars(module).update(settings)

    return change


@pytest.mark.parametrize(
    'change',
    [
        move,
        exchange,
        wrap_anew,
        settings_of(torch.nn.BatchNorm2d, momentum=0.5),
        settings_of(CrossEntropyLoss, loss_weight=3.0),
        lambda model: model.load_state_dict(model.state_dict()),
        lambda model: model.backbone.requires_grad_(False),
        lambda model: model.backbone.eval(),
        lambda model: setattr(
            model, 'train_cfg', dict(GRAPHED, scales=(0.75, 1.0))
        ),
    ],
    ids=[
        *('moved', 'exchanged', 'wrapped', 'momentum', 'loss_weight'),
        *('loaded', 'frozen', 'mode', 'settings'),
    ],
)
def test_a_changed_model_is_captured_again(graphed, make_batch, change):
    (old,) = graphs_of(graphed)
    change(graphed)
    eager = copy.deepcopy(graphed)
    eager.train_cfg = {**eager.train_cfg, 'cuda_graph': False}
    steps = [make_batch(seed=seed) for seed in range(3)]
    assert_same(train(graphed, steps), train(eager, steps))
    assert graphs_of(graphed)[-1] is not old


def test_hooks_that_come_later_are_called(graphed, make_batch, said):
    called = []
    graphed.backbone.register_forward_hook(lambda *args: called.append(1))
    for seed in range(3):
        total(graphed, make_batch(seed=seed)).backward()
    assert len(called) == 3 * len(TRAIN_CFG['scales'])
    assert 'hooks of backbone' in said[-1]


class Rebinds(torch.nn.Module):
    """Makes its buffer anew in each step, as EMANet's does, and counts."""

    def __init__(self, key):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.register_buffer('mean', torch.zeros(3))
        self.key, self.calls, self.seen = key, 0, [0]

    def forward(self, x):
        x = x * self.weight * (1 + self.calls + self.seen[0]) + self.mean
        if self.key == 'mean':
            self.mean = 0.5 * self.mean + x.detach()
        elif self.key == 'calls':
            self.calls += 1
        else:
            self.seen[0] += 1
        return x.sum()


@pytest.mark.parametrize('key', ['mean', 'calls', 'seen'])
def test_what_is_exchanged_in_each_step(said, key):
    """A replay would not, and a warm-up leaves no trace of it."""
    model = torch.nn.Sequential(Rebinds(key))
    eager, graphs, seen = (
        copy.deepcopy(model),
        GraphCache('key'),
        model[0].seen,
    )
    for _ in range(4):
        x = torch.rand(3)
        found = graphs(model, model, [x])
        loss = model(x) if found is None else found
        assert loss == eager(x)
    assert not graphs.graphs
    assert f'0.{key}' in said[-1]
    assert model[0].seen is seen


def test_settings_that_are_lists(graphed):
    """As `class_weight`, in place."""
    loss = graphed.decode_head.seg_heads[-1].loss_decode
    loss.class_weight = [1.0] * 19
    state = ModelState(graphed)
    assert state.holds()
    loss.class_weight[0] = 2.0
    assert not state.holds()


@pytest.mark.parametrize('worth_it', [0, 100])
def test_changes_that_come_seldom(graphed, make_batch, monkeypatch, worth_it):
    monkeypatch.setattr(cuda_graph, 'WORTH_IT', worth_it)
    for seed in range(3 * (MAX_GRAPHS + 1)):
        if seed % 3 == 0:
            move(graphed)
        losses(graphed, make_batch(seed=seed))
    assert len(graphs_of(graphed)) == int(not worth_it)


def test_each_model_says_what_it_does(build_tiny, make_batch, said):
    for _ in range(2):
        model = build_tiny(decode_head=HEAD, train_cfg=GRAPHED).train()
        for _ in range(3):
            losses(model, make_batch())
    assert ['captured' in line for line in said] == [True, True]


def test_weights_that_never_stay_where_they_are(graphed, make_batch, said):
    for seed in range(4 * MAX_GRAPHS):
        move(graphed)
        total(graphed, make_batch(seed=seed)).backward()
    assert not graphs_of(graphed)
    assert 'changes again' in said[-1]


def test_each_size_has_its_graph_up_to_a_number(graphed, make_batch, said):
    sizes = [(64, 64 + 8 * i) for i in range(MAX_GRAPHS + 1)]
    for size in sizes:
        for seed in range(2):
            assert losses(graphed, make_batch(size=size, seed=seed))
    assert len(graphs_of(graphed)) == MAX_GRAPHS
    assert f'only {MAX_GRAPHS} kinds' in said[-1]


def waits(build_tiny):
    """mmseg's accuracy takes pixels by a mask."""
    head = dict(HEAD, fast=False)
    return build_tiny(decode_head=head, train_cfg=GRAPHED), 'waits'


@pytest.mark.parametrize(
    'function',
    [
        lambda x: x.to('meta'),
        lambda x: torch.zeros(3, device='meta').copy_(x),
        lambda x: x.long().bincount(),
        lambda x: x[x > 0],
        lambda x: x.sum().item(),
    ],
)
def test_operators_that_wait(function):
    x = torch.zeros(3)
    with pytest.raises(RuntimeError, match='waits'), RefusingWaits():
        function(x)
    with RefusingWaits():
        x.to(torch.float64).copy_(x)[:2].clone()


def is_watched(build_tiny):
    model = build_tiny(decode_head=HEAD, train_cfg=GRAPHED)
    model.backbone.register_forward_hook(lambda *args: None)
    return model, 'hooks of backbone'


def reads_more(build_tiny):
    """Labels of its own kind, which samples of a graph do not have."""
    model = build_tiny(decode_head=HEAD, train_cfg=GRAPHED)
    head = model.decode_head.seg_heads[-1]
    by_feat = head.loss_by_feat

    def loss_by_feat(logits, samples):
        assert all(sample.img_shape for sample in samples)
        return by_feat(logits, samples)

    head.loss_by_feat = loss_by_feat
    return model, 'AttributeError'


@pytest.mark.parametrize('make', [waits, is_watched, reads_more])
def test_what_cannot_be_captured_runs_without(
    build_tiny, make_batch, said, make
):
    model, why = make(build_tiny)
    eager = copy.deepcopy(model)
    eager.train_cfg = TRAIN_CFG
    steps = [make_batch(seed=seed) for seed in range(3)]
    assert_same(train(model.train(), steps), train(eager.train(), steps))
    assert not graphs_of(model)
    assert any(why in line for line in said)


class Rounded(torch.nn.Module):
    """Keeps a layer out of autocast, as some backbones do."""

    def __init__(self):
        super().__init__()
        self.one, self.other = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, x):
        x = self.one(x)
        with torch.autocast('cpu', enabled=False):
            x = self.other(x.float()).softmax(-1)
        return (x**2).mean()


def test_layers_in_float32_have_such_gradients():
    """The backward pass is captured within autocast."""
    model, graphs = Rounded(), GraphCache('key')
    eager, x = copy.deepcopy(model), torch.randn(8, 64)
    for _ in range(3):
        with torch.autocast('cpu', torch.bfloat16):
            loss = graphs(model, model, [x])
            expected = eager(x)
    loss.backward()
    expected.backward()
    for one, other in zip(model.parameters(), eager.parameters()):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(
    'draw',
    [random.random, lambda: np.random.rand()],  # noqa: NPY002
    ids=['random', 'numpy'],
)
def test_random_numbers_of_the_host(said, draw):
    """A replay would not draw them, and a warm-up leaves no trace."""
    weights, graphs = (
        torch.nn.ParameterList([torch.ones(3)]),
        GraphCache('key'),
    )
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = draw()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    for _ in range(2):
        graphs(weights, lambda x: weights[0] * x * draw(), [torch.ones(3)])
    assert not graphs.graphs
    assert 'random numbers' in said[-1]
    assert draw() == expected


@pytest.mark.needs_torch('compile_module')
def test_what_is_compiled_stays_compiled(monkeypatch):
    """A dispatch mode would switch it off, for all modules and for good."""
    called = []

    def backend(module, inputs):
        return lambda *args: called.append(1) or module(*args)

    model, graphs = Rounded(), GraphCache('key')
    model.compile(backend=backend, dynamic=False)
    x = torch.ones(2, 64)
    # The stand-in is such a mode itself.
    record = contextlib.contextmanager(lambda self: iter([1 / 0]))
    monkeypatch.setattr(RecordingOnCPU, 'recording', record)
    for _ in range(2):
        assert graphs(model, model, [x]) is None
    called.clear()
    model(x)
    assert called


def test_processes_need_captures_of_their_own(said, monkeypatch):
    """Before torch 2.1 NCCL's watchdog would end the process."""
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(cuda_graph, 'torch_has', lambda what: False)
    weights, graphs = (
        torch.nn.ParameterList([torch.ones(3)]),
        GraphCache('key'),
    )
    for _ in range(2):
        graphs(weights, lambda x: weights[0] * x, [torch.ones(3)])
    assert not graphs.graphs
    assert 'torch 2.1' in said[-1]


def test_the_first_error_is_the_reason(said, monkeypatch):
    @contextlib.contextmanager
    def recording(self):
        try:
            yield
        finally:
            raise RuntimeError('operation failed due to a previous error')

    monkeypatch.setattr(RecordingOnCPU, 'recording', recording)

    def function(x):
        if len(calls) == WARM_UPS:
            raise ValueError('the cause')
        calls.append(x)
        return weights[0] * x

    calls, weights = [], torch.nn.ParameterList([torch.ones(3)])
    graphs = GraphCache('key')
    for _ in range(2):
        graphs(weights, function, [torch.ones(3)])
    assert 'ValueError: the cause (test_cuda_graph.py:' in said[-1]


def test_weights_held_by_a_wrapper(build_tiny, make_batch, said):
    model = build_tiny(decode_head=HEAD, train_cfg=GRAPHED)
    params = list(model.parameters())
    for module in model.modules():
        for name, param in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            setattr(module, name, param.view_as(param))
    for seed in range(3):
        total(model, make_batch(seed=seed)).backward(retain_graph=True)
    assert 'FSDP' in said[-1]
    assert all(p.grad is not None for p in params if p.numel() > 1)


def test_weights_that_are_also_elsewhere(said):
    weights = torch.nn.ParameterList([torch.ones(3)])
    plain = list(weights)
    graphs = GraphCache('key')
    for _ in range(3):
        found = graphs(
            weights, lambda x: (plain[0] * x).sum(), [torch.ones(3)]
        )
    assert found is None
    assert 'FSDP' in said[-1]


@pytest.mark.needs_torch('capture_mode')
@pytest.mark.parametrize('processes', [1, 2])
def test_statistics_of_several_processes(said, monkeypatch, processes):
    """The others are asked if there are any, see test_distributed.py."""
    asked = []
    world = torch.distributed
    monkeypatch.setattr(world, 'is_initialized', lambda: True)
    monkeypatch.setattr(world, 'get_world_size', lambda group: processes)
    monkeypatch.setattr(
        cuda_graph, 'least', lambda *plan: asked.append(plan) or 0
    )
    model, graphs = torch.nn.SyncBatchNorm(3), GraphCache('key')
    for _ in range(3):
        called = graphs(model, lambda x: model.weight * x, [torch.ones(3)])
    assert (called is None) == bool(asked) == (processes > 1)


def test_what_is_cached_outside_stays_in_memory():
    """And gradients that are one tensor do not stay one."""
    weights = torch.nn.ParameterList([torch.ones(3), torch.ones(3)])
    cached = [torch.arange(3.0)]

    def function(x):
        return ((weights[0] + weights[1]) * cached[0] * x).sum()

    graphs = GraphCache('key')
    for _ in range(3):
        loss = graphs(weights, function, [torch.ones(3)])
    loss.backward()
    weights[0].grad.mul_(2)
    assert weights[1].grad.tolist() == [0.0, 1.0, 2.0]
    (graph,) = graphs.graphs.values()
    assert cached.pop().data_ptr() in graph.reads.found


def test_other_devices_run_without(build_tiny, make_batch, said, monkeypatch):
    monkeypatch.setattr(RecordingOnCPU, 'device_type', 'cuda')
    model = build_tiny(train_cfg=GRAPHED).train()
    for _ in range(3):
        total(model, make_batch()).backward()
    assert not graphs_of(model)
    assert 'device of type cpu' in said[0]


def test_without_gradients(graphed, make_batch):
    with torch.no_grad():
        found = [losses(graphed, make_batch()) for _ in range(3)]
    assert_same(found[1:], found[:2])
    total(graphed, make_batch()).backward()


def test_checkpointing_is_refused(build_tiny):
    with pytest.raises(ValueError, match='checkpoint'):
        build_tiny(train_cfg=dict(GRAPHED, checkpoint=('scales',)))


def test_copies_have_no_graphs(graphed, build_tiny):
    keys = build_tiny(decode_head=HEAD).state_dict().keys()
    for model in (
        copy.deepcopy(graphed),
        pickle.loads(pickle.dumps(graphed)),
    ):
        assert not graphs_of(model)
        assert model.state_dict().keys() == keys


def test_a_run_with_hooks_and_resume(tiny_model_cfg, make_batch, tmp_path):
    """Stock runner, EMA, clipping; stopped half-way and resumed."""

    def run(name, cuda_graph, max_iters, resume=False):
        cfg = tiny_model_cfg(decode_head=HEAD)
        cfg['train_cfg']['cuda_graph'] = cuda_graph
        data = []
        for seed in range(3):
            inputs, samples = make_batch(seed=seed)
            data += [
                dict(inputs=image, data_samples=sample)
                for image, sample in zip(inputs, samples)
            ]
        runner = Runner(
            model=ConfigDict(cfg),
            work_dir=str(tmp_path / name),
            experiment_name=f'{tmp_path.name}_{name}_{max_iters}',
            train_dataloader=dict(
                dataset=data,
                batch_size=2,
                sampler=dict(type='InfiniteSampler', shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(by_epoch=False, max_iters=max_iters),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
                clip_grad=dict(max_norm=1.0),
            ),
            default_hooks=dict(
                checkpoint=dict(
                    type='SafeCheckpointHook', by_epoch=False, interval=2
                )
            ),
            custom_hooks=[
                dict(type='EMAHook'),
                dict(type='IterSeedHook'),
                dict(type='InvalidLossHook', buffer_interval=1),
            ],
            log_processor=dict(by_epoch=False),
            resume=resume,
            randomness=dict(seed=0),
            default_scope='mmseg',
        )
        runner.train()
        model = runner.model
        assert len(model.training_graphs.graphs) == int(cuda_graph)
        state = torch.load(
            tmp_path / name / f'iter_{max_iters}.pth', weights_only=True
        )
        return {**state['state_dict'], **state['ema_state_dict']}

    expected = run('eager', False, 6)
    run('graph', True, 4)
    assert_same([run('graph', True, 6, resume=True)], [expected])


# --------------------------------------------------------------- inference


def prepared(model):
    return prepare_for_inference(
        copy.deepcopy(model),
        fold_bn=False,
        channels_last=False,
        cuda_graph=True,
    )


@pytest.mark.parametrize(
    ('kind', 'seg_head', 'options'),
    [
        *((kind, FCN, dict()) for kind in HEADS),
        # Whose classifier has a hook of this package.
        ('hierarchical', KNET, dict()),
        ('hierarchical', FCN, dict(dtype='bfloat16', classes_only=True)),
        ('hierarchical', FCN, dict(scale_maps=True, confidence=True)),
        (
            *('hierarchical', FCN),
            dict(mode='slide', crop_size=(48, 48), stride=(32, 32)),
        ),
    ],
)
def test_inference_is_the_same(
    tiny_model_cfg, make_batch, kind, seg_head, options
):
    test_cfg = {'mode': 'whole', 'scales': (0.5, 1.0), **options}
    model = build_head(tiny_model_cfg, kind, seg_head, test_cfg=test_cfg)
    model.eval()
    graphed = prepared(model)
    for seed in range(3):
        inputs, samples = make_batch(seed=seed)
        with torch.no_grad():
            expected = model.predict(inputs, copy.deepcopy(samples))
            found = graphed.predict(inputs, copy.deepcopy(samples))
        for one, other in zip(found, expected):
            assert one.keys() == other.keys()
            for key in list(one.keys()):
                mine, others = one.get(key), other.get(key)
                assert torch.equal(mine.data, others.data), key
    assert len(graphed.inference_graphs.graphs) == 1


def test_gradients_of_inputs(build_lively, make_batch, said):
    model = build_lively().eval()
    graphed = prepared(model)
    found = []
    for one in (graphed, graphed, graphed, model):
        inputs = make_batch()[0].requires_grad_()
        one.encode_decode(inputs).sum().backward()
        found.append(inputs.grad)
    assert all(torch.equal(x, found[-1]) for x in found)
    assert 'inputs' in said[-1]


def test_graphs_of_latest_sizes_are_kept(build_lively, make_batch):
    graphed = prepared(build_lively().eval())
    sizes = [(64, 64 + 8 * i) for i in range(MAX_GRAPHS + 2)]
    with torch.inference_mode():
        for size in sizes:
            for seed in range(2):
                graphed.encode_decode(make_batch(size=size, seed=seed)[0])
    graphs = graphed.inference_graphs.graphs
    widths = [graph.inputs[0].shape[3] for graph in graphs.values()]
    assert widths == [size[1] for size in sizes[2:]]


def test_threads_share_graphs(build_lively, make_batch):
    model = build_lively().eval()
    graphed = prepared(model)
    images = [make_batch(seed=seed)[0] for seed in range(8)]

    @torch.no_grad()
    def predict(one, image):
        return one.encode_decode(image)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: predict(graphed, x), images))
    assert graphed.inference_graphs.graphs
    for image, logits in zip(images, found):
        assert torch.equal(logits, predict(model, image))


def test_models_of_mmseg_are_refused(tiny_model_cfg):
    cfg = tiny_model_cfg()
    head = cfg['decode_head']['seg_head']
    cfg.update(type='EncoderDecoder', decode_head=head, test_cfg={})
    stock = MODELS.build(ConfigDict(cfg, train_cfg={}))
    with pytest.raises(ValueError, match='cuda_graph'):
        prepare_for_inference(stock.eval(), cuda_graph=True)
