"""`cuda_graph=True` on a GPU, where `test_cuda_graph.py` has a stand-in.

Graphs may choose other kernels: results are compared within the noise that
eager runs have among themselves, or what the type rounds.
"""

import copy
import faulthandler
import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from test_models.cases import BCE, CE, HEADS, RMI, cascade, with_cfg

from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.models.utils import captured_graph, cuda_graph

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a GPU'
)
DEVICE = 'cuda'
TRAIN_CFG = dict(scales=(0.5, 1.0))
GRAPHED = dict(TRAIN_CFG, cuda_graph=True)
HEAD = dict(HEADS['hierarchical'], loss_scale=dict(CE, loss_weight=0.05))
# Of the largest value of a tensor, or a thousandth of that of its kind.
ROUNDING = dict(float32=1e-3, bfloat16=0.1, float16=0.03)
HRNET = pytest.mark.parametrize('zoo_case', ['hrnet_fcn-ocr'], indirect=True)


@pytest.fixture(autouse=True)
def _ends():
    """What waits for a GPU in vain ends the process, with a traceback."""
    faulthandler.dump_traceback_later(45, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def build(build_tiny, zoo_case):
    def build(**kwargs):
        cfg = {**zoo_case, 'decode_head': HEAD, **kwargs}
        return build_tiny(**cfg, train_cfg=TRAIN_CFG).to(DEVICE).train()

    return build


@pytest.fixture
def batch(make_batch):
    def batch(seed=0, size=(64, 96)):
        inputs, samples = make_batch(seed=seed, size=size)
        return inputs.to(DEVICE), [sample.to(DEVICE) for sample in samples]

    return batch


def with_graphs(model):
    model = copy.deepcopy(model)
    model.train_cfg = GRAPHED
    return model


def train(model, batches, dtype='float32', call=None):
    """Losses, gradients and buffers after each step of a training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    wrapper = OptimWrapper(optimizer)
    if dtype != 'float32':
        scale = 1024.0 if dtype == 'float16' else 1.0
        wrapper = AmpOptimWrapper(
            optimizer=optimizer, dtype=dtype, loss_scale=scale
        )
    found = []
    for i, (inputs, samples) in enumerate(batches):
        torch.manual_seed(i)
        with wrapper.optim_context(model):
            losses = (call or model)(inputs, samples, mode='loss')
            total, _ = model.parse_losses(losses)
        wrapper.backward(total)
        seen = {f'loss {key}': losses[key] for key in losses}
        for name, param in model.named_parameters():
            if param.grad is not None:
                seen[f'gradient {name}'] = param.grad
        seen.update((f'buffer {key}', x) for key, x in model.named_buffers())
        found.append({key: x.double().clone() for key, x in seen.items()})
        wrapper.step()
        wrapper.zero_grad()
    if dtype == 'float16':
        # No step was left out.
        assert wrapper.loss_scaler.get_scale() == scale
    return found


def farthest(found, expected):
    worst = 0.0
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        kinds = {}
        for key, x in other.items():
            kind, largest = key.split()[0], x.abs().max().item()
            kinds[kind] = max(kinds.get(kind, 0.0), largest)
        for key, x in other.items():
            assert one[key].isfinite().all(), key
            largest = max(x.abs().max().item(), kinds[key.split()[0]] / 1000)
            worst = max(worst, (one[key] - x).abs().max().item() / largest)
    return worst


def assert_within_noise(found, expected, again, dtype='float32'):
    noise = max(ROUNDING[dtype], 4 * farthest(again, expected))
    assert farthest(found, expected) <= noise


@pytest.mark.parametrize('dtype', ROUNDING)
@pytest.mark.parametrize(
    'zoo_case', ['hrnet_fcn-ocr', 'mit_segformer'], indirect=True
)
def test_steps_are_those_of_eager(build, batch, dtype):
    eager = build()
    graphed, twin = with_graphs(eager), copy.deepcopy(eager)
    batches = [batch(seed) for seed in range(4)]
    expected, again, found = (
        train(model, batches, dtype) for model in (eager, twin, graphed)
    )
    assert len(graphed.training_graphs.graphs) == 1
    assert_within_noise(found, expected, again, dtype)


def test_losses_of_the_authors(build_tiny, batch):
    """RMI solves systems, which a capture must allow."""
    loss_scale = dict(BCE, loss_weight=0.05)
    eager = build_tiny(
        cascade(dict(BCE, loss_weight=0.4), loss_decode=RMI),
        decode_head=dict(HEAD, loss_scale=loss_scale),
        train_cfg=TRAIN_CFG,
    )
    eager = eager.to(DEVICE).train()
    graphed, twin = with_graphs(eager), copy.deepcopy(eager)
    batches = [batch(seed) for seed in range(4)]
    expected, again, found = (
        train(model, batches, 'bfloat16') for model in (eager, twin, graphed)
    )
    assert len(graphed.training_graphs.graphs) == 1
    assert_within_noise(found, expected, again, 'bfloat16')


@HRNET
def test_what_waits_for_the_gpu_runs_without(build, batch, monkeypatch):
    """mmseg's accuracy takes pixels by a mask."""
    said = []
    monkeypatch.setattr(cuda_graph, '_warn', said.append)
    eager = build(decode_head=dict(HEAD, fast=False))
    graphed, twin = with_graphs(eager), copy.deepcopy(eager)
    batches = [batch(seed) for seed in range(4)]
    expected, again, found = (
        train(model, batches) for model in (eager, twin, graphed)
    )
    assert not graphed.training_graphs.graphs
    assert any('synchroniz' in line for line in said), said
    assert torch.cuda.get_sync_debug_mode() == 0
    assert_within_noise(found, expected, again)


def by_python():
    raise RuntimeError('out of memory')


def by_cuda():
    """Which a capture does not survive."""
    torch.zeros(1, device=DEVICE).item()


@HRNET
@pytest.mark.parametrize('fail', [by_python, by_cuda])
def test_a_failed_capture_leaves_nothing(build, batch, monkeypatch, fail):
    backward, calls = captured_graph.CapturedGraph._backward, []

    def fails(self, *args):
        calls.append(1)
        if len(calls) == captured_graph.WARM_UPS + 1:
            fail()
        return backward(self, *args)

    monkeypatch.setattr(captured_graph.CapturedGraph, '_backward', fails)
    eager = build()
    graphed, twin = with_graphs(eager), copy.deepcopy(eager)
    batches = [batch(seed) for seed in range(4)]
    expected, again, found = (
        train(model, batches, 'bfloat16') for model in (eager, twin, graphed)
    )
    assert not graphed.training_graphs.graphs
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert_within_noise(found, expected, again, 'bfloat16')
    # Neither the allocator nor the generator believes in a capture.
    torch.cuda.empty_cache()
    torch.nn.functional.dropout(torch.ones(9, device=DEVICE))
    monkeypatch.undo()
    third = with_graphs(eager)
    train(third, batches, 'bfloat16')
    assert len(third.training_graphs.graphs) == 1


@HRNET
def test_gradients_add_up_over_sizes(build, batch):
    def gradients(model):
        for seed in range(6):
            torch.manual_seed(seed)
            inputs, samples = batch(seed, ((64, 96), (64, 64))[seed % 2])
            losses = model(inputs, samples, mode='loss')
            model.parse_losses(losses)[0].backward()
        params = model.named_parameters()
        return [{f'gradient {name}': p.grad.double() for name, p in params}]

    eager = build()
    graphed, twin = with_graphs(eager), copy.deepcopy(eager)
    expected, again, found = map(gradients, (eager, twin, graphed))
    assert len(graphed.training_graphs.graphs) == 2
    assert_within_noise(found, expected, again)


@HRNET
def test_ddp_with_nccl(build, batch, tmp_path):
    eager = build()
    graphed, twin = with_graphs(eager), copy.deepcopy(eager)
    batches = [batch(seed) for seed in range(4)]
    expected, again = (train(model, batches) for model in (eager, twin))
    dist.init_process_group(
        'nccl', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        ddp = MMDistributedDataParallel(graphed, broadcast_buffers=False)
        found = train(graphed, batches, call=ddp)
    finally:
        dist.destroy_process_group()
    assert len(graphed.training_graphs.graphs) == 1
    assert_within_noise(found, expected, again)


@HRNET
def test_sizes_share_memory(build, batch):
    def held():
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    model, before, found = with_graphs(build()), held(), []
    for size in ((256, 512), (256, 384), (192, 384)):
        train(model, [batch(seed, size) for seed in range(3)])
        found.append(held() - before)
    assert len(model.training_graphs.graphs) == 3
    assert found[-1] < 1.5 * found[0]


@pytest.mark.parametrize('dtype', ROUNDING)
def test_inference_is_that_of_eager(build_lively, batch, dtype):
    options = {} if dtype == 'float32' else dict(dtype=dtype)
    model = with_cfg(build_lively().to(DEVICE), **options)
    eager = prepare_for_inference(copy.deepcopy(model))
    graphed = prepare_for_inference(copy.deepcopy(model), cuda_graph=True)
    for seed in range(4):
        inputs, _ = batch(seed)
        with torch.no_grad():
            expected, again, found = (
                [dict(logits=one.encode_decode(inputs))]
                for one in (eager, eager, graphed)
            )
        assert_within_noise(found, expected, again, dtype)
    assert len(graphed.inference_graphs.graphs) == 1


def test_threads_with_streams_of_their_own(build_lively, batch):
    model = build_lively().to(DEVICE).eval()
    graphed = prepare_for_inference(
        copy.deepcopy(model), fold_bn=False, cuda_graph=True
    )
    images = [batch(seed)[0] for seed in range(16)]

    @torch.no_grad()
    def predict(image):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(stream):
            found = graphed.encode_decode(image)
        stream.synchronize()
        return dict(logits=found)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predict, images))
    assert graphed.inference_graphs.graphs
    with torch.no_grad():
        expected = [dict(logits=model.encode_decode(x)) for x in images]
    assert_within_noise(found, expected, expected)
