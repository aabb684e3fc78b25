"""Losses in tiles of rows against those of whole logits.

Every case is compared with the plain way, mmseg's own ``loss_by_feat`` on
what ``fuse_scales`` gives: values, accuracies, gradients of all maps.
"""

import math
import sys
from pathlib import Path

import pytest
import torch

from hmsa_mmseg.models.fast import row_losses, tiles

# A module beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from row_loss_cases import (
    BCE,
    CE,
    HARD,
    HARDEST,
    MEAN,
    RMI,
    WEIGHTED,
    K,
    assert_equal,
    build,
    make_maps,
    make_samples,
    run,
)

SIZES = [(64, 96), (67, 99), (33, 47)]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Some tiles per map, and one class after the other in a tile."""
    monkeypatch.setitem(tiles.TILE_BYTES, 'cpu', 12 * 1100 * K * 8)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(row_losses, '_said', set())


CASES = [
    (CE, None),
    (MEAN, None),
    (WEIGHTED, None),
    (RMI, None),
    (BCE, None),
    ([MEAN, RMI, dict(MEAN, loss_weight=0.1)], None),
    (MEAN, HARD),
    (CE, HARDEST),
    (WEIGHTED, HARD),
    ([WEIGHTED, MEAN], HARDEST),
]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('loss', 'sampler'), CASES)
def test_equals_the_plain_way(loss, sampler, size):
    head = build(loss, sampler, scale_loss=[dict(BCE), dict(MEAN)])
    samples = make_samples(size, absent=3)
    found = assert_equal(head, make_maps(size), size, samples)
    assert {'aux.loss_bce', 'aux.acc_seg', 'decode.acc_seg'} < found.keys()
    assert {'scale_0.5.loss_bce', 'scale_1.loss_ce'} < found.keys()


@pytest.mark.parametrize(
    'scales', [(0.5, 1.0, 2.0), (0.75, 1.5), (0.3, 0.7, 1.0), (1.0, 2.0)]
)
@pytest.mark.parametrize('align_corners', [False, True])
def test_other_scales(scales, align_corners):
    size = (45, 61)
    head = build(RMI, scale_loss=MEAN, align_corners=align_corners)
    samples = make_samples(size)
    assert_equal(head, make_maps(size, scales), size, samples, scales)


@pytest.mark.parametrize(('loss', 'sampler'), CASES)
def test_float32(loss, sampler):
    size = (67, 99)
    head = build(loss, sampler, scale_loss=dict(BCE))
    maps = make_maps(size, dtype=torch.float32)
    assert_equal(head, maps, size, make_samples(size), rtol=2e-5)


@pytest.mark.parametrize(('loss', 'sampler'), CASES)
def test_autocast_and_half_precision_maps(loss, sampler):
    """The loss is that of the same values in float32."""
    size = (67, 99)
    head = build(loss, sampler)
    maps = make_maps(size, dtype=torch.bfloat16)
    head.scale_attn = torch.nn.Identity()
    for attn in maps[2::3]:
        attn.data.sigmoid_()
    wide = [x.detach().float().requires_grad_() for x in maps]
    samples = make_samples(size)
    expected, expected_grads = run(head, wide, size, samples, True)
    with torch.autocast('cpu', torch.bfloat16):
        found, grads = run(head, maps, size, samples, True)
    for key, value in expected.items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value), key
    for grad, other in zip(grads, expected_grads):
        if other is not None:
            assert grad.dtype == torch.bfloat16
            error = (grad.float() - other).abs().max()
            assert error <= 2**-7 * other.abs().max()  # that of bfloat16


@pytest.mark.parametrize(('loss', 'sampler'), CASES)
def test_no_pixel_has_a_label(loss, sampler):
    size = (33, 47)
    samples = make_samples(size, ignored=2)
    assert_equal(build(loss, sampler), make_maps(size), size, samples)


@pytest.mark.parametrize(('loss', 'sampler'), CASES)
def test_without_gradient(loss, sampler):
    size = (33, 47)
    head, samples = build(loss, sampler, MEAN), make_samples(size)
    maps = make_maps(size)
    expected, _ = run(head, maps, size, samples, True)
    with torch.no_grad():
        found, _ = run(head, maps, size, samples, True)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value.detach())


@pytest.mark.parametrize('loss', [MEAN, RMI, BCE])
def test_gradient_of_the_attention_alone(loss):
    """As when all but the attention is frozen."""
    size = (45, 61)
    maps = make_maps(size)
    for x in (*maps[::3], *maps[1::3]):
        x.requires_grad_(False)
    head, samples = build(loss), make_samples(size)
    grads = []
    for fast in (False, True):
        head.fast = fast
        inputs = [(0.5, maps[:3]), (1.0, maps[3:])]
        losses = head.loss(inputs, size, samples)
        total = losses[next(key for key in losses if 'decode.loss' in key)]
        grads.append(torch.autograd.grad(total, maps[2])[0])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert grads[0].abs().max() > 0


def test_tiles_do_not_matter(monkeypatch):
    size = (67, 99)
    head, samples = build(RMI, scale_loss=MEAN), make_samples(size)
    maps = make_maps(size)
    _, expected = run(head, maps, size, samples, True)
    for tile_bytes in (1, 8000, 10**8):
        monkeypatch.setitem(tiles.TILE_BYTES, 'cpu', tile_bytes)
        _, grads = run(head, maps, size, samples, True)
        for grad, other in zip(grads, expected):
            torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('loss', [MEAN, RMI])
def test_second_derivative_is_refused(loss):
    size = (33, 47)
    head, maps = build(loss), make_maps(size)
    head.fast = True
    inputs = [(0.5, maps[:3]), (1.0, maps[3:])]
    losses = head.loss(inputs, size, make_samples(size))
    total = sum(v for key, v in losses.items() if 'decode.loss' in key)
    with pytest.raises(RuntimeError, match='without create_graph=True'):
        torch.autograd.grad(total, maps[0], create_graph=True)


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('loss', [MEAN, RMI, BCE])
def test_a_logit_that_is_not_finite_shows(value, loss):
    size = (33, 47)
    maps = make_maps(size)
    maps[3].data[1, 2, 5, 5] = value
    losses, grads = run(build(loss), maps, size, make_samples(size), True)
    key = next(key for key in losses if 'decode.loss' in key)
    assert not losses[key].isfinite()
    assert grads[3].isnan().any()
