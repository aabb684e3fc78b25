"""Losses in tiles of rows against those of whole logits.

Every case is compared with the plain way, mmseg's own ``loss_by_feat`` on
what ``fuse_scales`` gives: values, accuracies, gradients of all maps.
"""

import math
import sys
from pathlib import Path

import pytest
import torch

from hmsa_mmseg.models.utils import execution

# A module beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from loss_cases import (
    BCE,
    CE,
    MEAN,
    RMI,
    WEIGHTED,
    assert_equal,
    build,
    losses_of,
    main_loss,
    make_maps,
    make_samples,
    run,
)

SIZES = [(64, 96), (67, 99), (33, 47)]
LOSSES = [
    CE,
    MEAN,
    WEIGHTED,
    RMI,
    BCE,
    [MEAN, RMI, dict(MEAN, loss_weight=0.1)],
]
all_losses = pytest.mark.parametrize('loss', LOSSES)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Several tiles per map, the last one shorter."""
    monkeypatch.setitem(execution.TILE_BYTES, 'cpu', 1)
    monkeypatch.setattr(execution, 'MIN_ROWS', 12)


@pytest.mark.parametrize('size', SIZES)
@all_losses
def test_equals_the_plain_way(loss, size):
    head = build(loss, scale_loss=[dict(BCE), dict(MEAN)])
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


@all_losses
def test_float32(loss):
    size = (67, 99)
    head = build(loss, scale_loss=dict(BCE))
    maps = make_maps(size, dtype=torch.float32)
    assert_equal(head, maps, size, make_samples(size), rtol=2e-5)


@all_losses
def test_autocast_and_half_precision_maps(loss):
    """The loss is that of the same values in float32."""
    size = (67, 99)
    head = build(loss)
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


@all_losses
def test_no_pixel_has_a_label(loss):
    size = (33, 47)
    samples = make_samples(size, ignored=2)
    assert_equal(build(loss), make_maps(size), size, samples)


@all_losses
def test_without_gradient(loss):
    size = (33, 47)
    head, samples = build(loss, None, MEAN), make_samples(size)
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
        total = main_loss(losses_of(head, maps, size, samples, fast))
        grads.append(torch.autograd.grad(total, maps[2])[0])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert grads[0].abs().max() > 0


def test_tiles_do_not_matter(monkeypatch):
    size = (67, 99)
    head, samples = build(RMI, scale_loss=MEAN), make_samples(size)
    maps = make_maps(size)
    _, expected = run(head, maps, size, samples, True)
    for rows in (4, 20, 1000):
        monkeypatch.setattr(execution, 'MIN_ROWS', rows)
        _, grads = run(head, maps, size, samples, True)
        for grad, other in zip(grads, expected):
            torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('loss', [MEAN, RMI])
def test_second_derivative_is_refused(loss):
    size = (33, 47)
    maps = make_maps(size)
    losses = losses_of(build(loss), maps, size, make_samples(size), True)
    with pytest.raises(RuntimeError, match='without create_graph=True'):
        torch.autograd.grad(main_loss(losses), maps[0], create_graph=True)


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('loss', [MEAN, RMI, BCE])
def test_a_logit_that_is_not_finite_shows(value, loss):
    size = (33, 47)
    maps = make_maps(size)
    maps[3].data[1, 2, 5, 5] = value
    losses, grads = run(build(loss), maps, size, make_samples(size), True)
    assert not main_loss(losses).isfinite()
    assert grads[3].isnan().any()
