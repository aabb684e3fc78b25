"""Losses in tiles of rows against those of whole logits.

Every case is compared with the plain way, mmseg's own ``loss_by_feat`` on
what ``fuse_scales`` gives: values, accuracies, gradients of all parameters.
"""

import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS
from test_models.cases import (
    BCE,
    CE,
    MEAN,
    RMI,
    WEIGHTED,
    WEIGHTS,
    cascade,
    set_costs,
)

from hmsa_mmseg.models.decode_heads import tile_losses
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits
from hmsa_mmseg.models.tiled.loss_walk import Accuracy
from hmsa_mmseg.models.utils import execution

SIZE = (67, 99)
ALL = [CE, MEAN, WEIGHTED, RMI, BCE, [MEAN, RMI, dict(MEAN, loss_weight=0.1)]]
HARD = dict(type='OHEMPixelSampler', thresh=0.3, min_kept=100)
main_losses = pytest.mark.parametrize('loss', [MEAN, RMI, BCE])


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Several tiles per map, the last one shorter."""
    set_costs(monkeypatch, tile_bytes=1)
    monkeypatch.setattr(execution, 'MIN_ROWS', 12)


@pytest.fixture
def build(build_tiny):
    """Return a function that builds a model around two heads."""

    def build(loss=MEAN, loss_scale=None, scales=(0.5, 1.0), **main):
        aux, last = cascade(dict(BCE, loss_weight=0.3), loss_decode=loss)
        aux['align_corners'] = main.get('align_corners', False)
        model = build_tiny(
            [aux, {**last, **main}],
            train_scales=scales,
            decode_head=dict(loss_scale=loss_scale),
        )
        return model.train().double()

    return build


@pytest.fixture
def batch_of(make_batch):
    """Return a function that makes images, and labels without one class."""

    def make(size=SIZE):
        inputs, samples = make_batch(size=size)
        label = samples[0].gt_sem_seg.data
        label[label == 3] = 4
        return inputs.double(), samples

    return make


def run(model, batch, fast):
    """Losses, and the gradients of their weighted sum."""
    model.decode_head.fast = fast
    model.zero_grad()
    losses = model.loss(*batch)
    # What comes from above differs from loss to loss.
    sum(
        (i + 0.5) * value
        for i, (key, value) in enumerate(losses.items())
        if 'loss' in key
    ).backward()
    return losses, {n: p.grad for n, p in model.named_parameters()}


def assert_near(found, expected, rtol):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    error = (found - expected).abs().max()
    assert error <= rtol * expected.abs().max().clamp_min(1e-12)


def assert_equal(model, batch, rtol=1e-9):
    """Compare what both ways give, and return the losses."""
    plain, expected = run(model, batch, False)
    # Nothing may be made as a whole.
    with mock.patch.object(
        tile_losses, 'make_whole', side_effect=AssertionError
    ):
        found, grads = run(model, batch, True)
    assert list(found) == list(plain)
    for key, value in plain.items():
        assert_near(found[key], value, max(rtol, 1e-6))
    for key, value in expected.items():
        assert_near(grads[key], value, rtol)
    return found


@pytest.mark.parametrize(
    ('loss', 'size'), [*zip(ALL, [(64, 96), SIZE, (33, 47)] * 2), (RMI, SIZE)]
)
def test_equals_the_plain_way(loss, size, build, batch_of):
    model = build(loss, [dict(BCE), dict(MEAN, loss_weight=0.4)])
    inputs, samples = batch = batch_of(size)
    found = assert_equal(model, batch)
    assert {'aux.loss_bce', 'aux.acc_seg', 'decode.acc_seg'} < found.keys()
    assert {'scale_0.5.loss_bce', 'scale_1.loss_ce'} < found.keys()
    with torch.no_grad():
        without = model.loss(*batch)
    for key, value in found.items():
        torch.testing.assert_close(without[key], value.detach())
    assert_equal(model.float(), (inputs.float(), samples), rtol=1e-3)
    for one in samples:  # no pixel has a label
        one.gt_sem_seg.data.fill_(255)
    assert_equal(model.double(), batch)


@pytest.mark.parametrize(
    ('scales', 'align_corners'),
    [
        ((0.5, 1.0, 2.0), True),
        ((0.75, 1.5), False),
        ((0.3, 0.7, 1.0), True),
        ((1.0, 2.0), False),
    ],
)
def test_other_scales_and_tiles(
    scales, align_corners, build, batch_of, monkeypatch
):
    model = build(RMI, MEAN, scales, align_corners=align_corners)
    for rows in (4, 20):
        monkeypatch.setattr(execution, 'MIN_ROWS', rows)
        assert_equal(model, batch_of((45, 61)))


@main_losses
@pytest.mark.fault(
    'NaN or infinity in a logit: losses in tiles',
    'loss and gradient are not finite, as without tiles',
)
def test_not_finite_or_differentiated_twice(loss, build, batch_of):
    model, batch = build(loss), batch_of((33, 47))
    bias = model.decode_head.seg_heads[-1].conv_seg.bias
    losses = model.loss(*batch)
    key = next(key for key in losses if 'decode.loss' in key)
    with pytest.raises(RuntimeError, match='without create_graph=True'):
        torch.autograd.grad(losses[key], bias, create_graph=True)
    for number in (math.nan, math.inf):
        bias.data[2] = number
        losses, grads = run(model, batch, True)
        assert not losses[key].isfinite()
        name = 'decode_head.seg_head.1.conv_seg.bias'
        assert grads[name].isnan().any()


# ------------------------------------------- where tiles are not possible


@pytest.fixture
def said(monkeypatch):
    """What the log is told about losses."""
    found = []
    tile_losses._log_once.cache_clear()
    monkeypatch.setattr(
        tile_losses, 'print_log', lambda text, **_: found.append(text)
    )
    yield found
    tile_losses._log_once.cache_clear()


PLAIN = [
    (dict(type='DiceLoss'), None, 'DiceLoss'),
    (dict(CE, use_sigmoid=True), None, 'CrossEntropyLoss with a sigmoid'),
    (dict(CE, reduction='sum'), None, 'a reduction other than mean'),
    (dict(CE, class_weight=WEIGHTS), None, 'with class_weight'),
    (MEAN, HARD, 'the sampler OHEMPixelSampler'),
]


@pytest.mark.parametrize(('loss', 'sampler', 'reason'), PLAIN)
def test_other_losses_take_the_plain_way_and_say_so_once(
    loss, sampler, reason, said, build, batch_of
):
    model, batch = build(loss, sampler=sampler), batch_of((33, 47))
    if 'class_weight' in reason:  # mmseg's cannot index 255
        for one in batch[1]:
            one.gt_sem_seg.data.clamp_(max=4)
    run(model, batch, True)
    found, grads = run(model, batch, True)
    (text,) = said
    assert reason in text
    plain, expected = run(model, batch, False)
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value)
    for key, value in expected.items():
        torch.testing.assert_close(grads[key], value)


def test_losses_and_hooks_of_others_are_called(build, batch_of):
    model, batch, calls = build(), batch_of((33, 47)), []
    main = model.decode_head.seg_heads[-1]
    main.loss_decode.register_forward_hook(lambda *_: calls.append('hook'))
    model.loss(*batch)
    assert calls == ['hook']
    main.loss_by_feat = lambda x, _: dict(loss_own=x.mean())
    losses = model.loss(*batch)
    assert {'decode.loss_own', 'aux.loss_bce'} < losses.keys()


@pytest.mark.fault(
    'a label that is no class: losses in tiles',
    'the error of the loss, with the label',
)
def test_a_label_that_is_no_class_gives_the_loss_s_own_error(build, batch_of):
    model, batch = build(RMI), batch_of()
    batch[1][1].gt_sem_seg.data[0, 8, 9] = 7
    with pytest.raises(ValueError, match=r'found labels \[7\]'):
        model.loss(*batch)
    model.decode_head.seg_heads[0].loss_decode = MODELS.build(CE)
    with pytest.raises(IndexError, match='Target 7 is out of bounds'):
        model.loss(*batch)


@pytest.mark.parametrize('cfg', [RMI, MEAN])
def test_under_torch_compile(cfg):
    """Its graphs would leave out what tiles add to a sum."""
    logits = torch.randn(2, 5, 9, 12, dtype=torch.float64, requires_grad=True)
    label = torch.randint(5, (2, 33, 47))

    module = MODELS.build(cfg)

    def loss(x):
        rows = FusedLogits((1.0,), (x,), (None,), (33, 47), False)
        return tile_losses.loss_of_logits(module, rows, label, 255)

    expected = loss(logits)
    found = torch.compile(loss, backend='aot_eager')(logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (expected,) = torch.autograd.grad(expected, logits)
    (found,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_devices_without_float64_get_whole_logits():
    module = MODELS.build(BCE)
    device = torch.device('mps')
    reason = tile_losses._why_not(module, SimpleNamespace(device=device))
    assert 'type mps' in reason


def test_accuracy_of_a_single_channel():
    label = torch.randint(2, (1, 8, 9)) * 255
    found = Accuracy(label, 255)
    logits = torch.randn(1, 1, 8, 9)
    for rows in (slice(0, 3), slice(3, 8)):
        found.add(logits[:, :, rows], rows)
    expected = accuracy(logits, label, ignore_index=255)
    torch.testing.assert_close(found.percent(), expected)
    assert found.percent() == 100
