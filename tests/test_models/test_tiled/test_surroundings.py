"""Default devices, threads, traces and ``torch.compile`` around a model."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest
import torch
from oracles.no_waiting import no_waiting
from test_models.cases import (
    BCE,
    BN,
    CE,
    KNET,
    MEAN,
    RMI,
    WEIGHTED,
    set_costs,
)

from hmsa_mmseg.models.decode_heads.classifiers import find_classifier
from hmsa_mmseg.models.tiled.decisions import decide
from hmsa_mmseg.models.tiled.row_resize import bilinear_taps

SIZE = (96, 128)
# At strides 4, 8 and 16.
BACKBONE = dict(
    type='ResNet',
    depth=18,
    num_stages=3,
    stem_channels=8,
    base_channels=8,
    strides=(1, 2, 2),
    dilations=(1, 1, 1),
    out_indices=(0, 1, 2),
    norm_cfg=BN,
)
COMMON = dict(
    in_channels=[8, 16, 32],
    in_index=(0, 1, 2),
    input_transform='resize_concat',
    channels=12,
    num_classes=5,
    norm_cfg=BN,
    dropout_ratio=0,
)
CASCADE = [
    dict(
        type='FCNHead',
        kernel_size=1,
        num_convs=1,
        concat_input=False,
        loss_decode=BCE,
        **COMMON,
    ),
    dict(type='OCRHead', ocr_channels=8, loss_decode=RMI, **COMMON),
]
each_way = pytest.mark.parametrize('fast', [True, False])


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    set_costs(monkeypatch, tile_bytes=1, ocr_rows=5)
    bilinear_taps.cache_clear()


@pytest.fixture
def build(build_tiny):
    """Return a function that builds a model that predicts all classes."""

    def build(seg_head=CASCADE, fast=True, loss_scale=None):
        model = build_tiny(
            seg_head,
            decode_head=dict(fast=fast, loss_scale=loss_scale),
            backbone=BACKBONE,
        )
        for name, parameter in model.named_parameters():
            if 'conv_seg.weight' in name:
                torch.nn.init.normal_(parameter)
        return model.eval()

    return build


@contextmanager
def default_device():
    torch.set_default_device('meta')
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    ('around', 'fast'),
    [
        (default_device, True),
        (lambda: torch.device('meta'), True),
        (default_device, False),
    ],
)
@pytest.mark.fault(
    'torch.set_default_device around the fast paths',
    'the same numbers',
)
def test_a_default_device_changes_nothing(around, fast, build, make_batch):
    model = build(fast=fast)
    inputs, samples = make_batch(size=SIZE)

    def call():
        bilinear_taps.cache_clear()
        with torch.no_grad():
            logits = model.encode_decode(inputs)
        losses = model.loss(inputs, samples)
        total = sum(losses[key] for key in losses if 'loss' in key)
        weight = model.decode_head.scale_attn.conv0.weight
        return [logits, *losses.values(), *torch.autograd.grad(total, weight)]

    expected = call()
    with around():
        found = call()
    for one, other in zip(found, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ('seg_head', 'fast'), [(CASCADE, True), (CASCADE, False), (KNET, True)]
)
@pytest.mark.fault(
    'two threads predict with one model',
    'each has the features of its own image',
)
def test_threads_share_a_model(seg_head, fast, build, make_batch):
    model = build(seg_head, fast)
    images = [make_batch(size=SIZE, seed=seed)[0] for seed in range(2)]

    @torch.no_grad()
    def predict(image):
        return model.encode_decode(image)

    expected = [predict(image) for image in images]
    # Both threads enter each of these together.
    barrier = threading.Barrier(2, timeout=60)
    head = model.decode_head
    meet = [model.backbone, head.scale_attn]
    if seg_head is KNET or not fast:
        meet.append(find_classifier(head.seg_heads[-1]).layer)

    def wait(*_):
        barrier.wait()

    for module in meet:
        module.register_forward_pre_hook(wait)
        module.register_forward_hook(wait)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(5):
                found = list(pool.map(predict, images))
                for one, other in zip(found, expected):
                    torch.testing.assert_close(one, other)
    finally:
        sys.setswitchinterval(interval)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.needs_torch('is_compiling')
@each_way
@torch.no_grad()
@pytest.mark.fault(
    'torch.compile of the whole model, fast paths on and off',
    'one graph, the same numbers',
)
def test_one_graph_of_the_whole_model(fast, build, make_batch):
    model = build(fast=fast)
    inputs, _ = make_batch(size=SIZE)
    expected = model.encode_decode(inputs)
    compiled = torch.compile(
        model.encode_decode, fullgraph=True, backend='eager'
    )
    torch.testing.assert_close(
        compiled(inputs), expected, rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_a_trace_is_of_any_size(build):
    """Tiles would be those of the size that was traced."""
    model = build().requires_grad_(False)
    images = [torch.randn(1, 3, *size) for size in (SIZE, (64, 160))]
    traced = torch.jit.trace(
        lambda x: model.encode_decode(x), images[0], check_trace=False
    )
    for image in images:
        torch.testing.assert_close(
            traced(image), model.encode_decode(image), rtol=1e-4, atol=1e-4
        )


@pytest.mark.needs_torch('solving_on_meta')  # and losses
def test_a_step_does_not_wait_for_the_gpu(build, make_batch):
    """Nor does it copy to it, after the first one."""
    aux, last = CASCADE
    heads = [aux, dict(last, loss_decode=[CE, MEAN, WEIGHTED, RMI])]
    model = build(heads, loss_scale=[BCE, MEAN]).to('meta')
    inputs, samples = make_batch(size=SIZE)
    inputs, samples = inputs.to('meta'), [x.to('meta') for x in samples]
    for guard in (nullcontext, no_waiting):
        with guard():
            total = sum(
                value
                for key, value in model.train().loss(inputs, samples).items()
                if 'loss' in key
            )
            total.backward()
        with guard(), torch.no_grad():
            model.eval().encode_decode(inputs)
            decide(model.predict_rows(inputs), torch.int16, None, True)


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1.0], device='meta'),
        lambda x: x.to('meta').new_tensor([1.0]),
        lambda x: x.to('meta'),
    ],
)
def test_what_waits_is_found(wait):
    with no_waiting(), pytest.raises(AssertionError, match='device'):
        wait(torch.ones(3))
