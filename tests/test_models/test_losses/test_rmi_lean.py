"""RMILoss and its formula against the formula written down step by step."""

import math
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from hmsa_mmseg.analysis.live_bytes import peak_live_bytes
from hmsa_mmseg.models.losses import RMILoss, rmi_formula, rmi_lean
from hmsa_mmseg.models.tiled.logit_rows import WholeLogits
from hmsa_mmseg.models.utils import execution

# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools'))

from benchmarking.literal_rmi import literal_rmi_loss

FLOOR = math.log(math.sqrt(5e-4) + 1e-8)


def random_case(num_classes, size, batch=1, ignored=0.1, seed=0):
    """Logits that agree with the labels in part; blocks of one class."""
    generator = torch.Generator().manual_seed(seed)

    def blocks(side, draw):
        grid = draw([batch, *(math.ceil(s / side) for s in size)])
        grid = grid.repeat_interleave(side, 1).repeat_interleave(side, 2)
        return grid[:, : size[0], : size[1]].clone()

    def draw_class(shape):
        return torch.randint(num_classes, shape, generator=generator)

    label = blocks(7, draw_class)
    guess = blocks(5, draw_class)
    logits = torch.randn(batch, num_classes, *size, generator=generator)
    logits += 2 * (torch.arange(num_classes)[:, None, None] == label[:, None])
    logits += torch.arange(num_classes)[:, None, None] == guess[:, None]
    drop = blocks(4, lambda s: torch.rand(s, generator=generator)) < ignored
    return logits, label.masked_fill(drop, -1)


def rmi_loss(logits, label):
    return RMILoss()(logits, label, ignore_index=-1)


def bce_loss(logits, label):
    return RMILoss(with_rmi=False)(logits, label, ignore_index=-1)


def loss_and_grad(function, logits, label, *args):
    logits = logits.detach().clone().requires_grad_()
    loss = function(logits, label, *args)
    (grad,) = torch.autograd.grad(loss, logits)
    return loss.item(), grad


def assert_equal_to_literal(
    logits, label, loss_tol, grad_tol, functions=(rmi_loss, bce_loss)
):
    target = label.masked_fill(label < 0, logits.shape[1])
    for with_rmi, function in zip((True, False), functions):
        expected, expected_grad = loss_and_grad(
            literal_rmi_loss, logits.double(), target, with_rmi
        )
        loss, grad = loss_and_grad(function, logits, label)
        assert loss == pytest.approx(expected, rel=loss_tol, abs=loss_tol)
        assert grad.dtype == logits.dtype
        error = (grad - expected_grad).abs().max()
        assert error <= grad_tol * expected_grad.abs().max()


CASES = [
    # classes, size, batch, share of blocks ignored
    (19, (64, 96), 2, 0.1),
    (65, (40, 52), 1, 0.1),
    (3, (33, 47), 3, 0.1),
    (3, (35, 39), 1, 0.1),  # the last row and column are in no window
    (2, (34, 38), 1, 0.0),
    (4, (8, 9), 2, 0.1),
    (5, (43, 8), 1, 0.9),
    (1, (21, 22), 2, 0.3),
]


@pytest.mark.parametrize(('num_classes', 'size', 'batch', 'ignored'), CASES)
def test_equals_the_formula(num_classes, size, batch, ignored):
    logits, label = random_case(num_classes, size, batch, ignored)
    label[0][label[0] == 2] = 1  # one class is absent
    assert_equal_to_literal(logits.double(), label, 1e-9, 1e-9)
    assert_equal_to_literal(logits, label, 1e-6, 1e-5)
    formulas = rmi_formula.rmi_loss, rmi_formula.bce_loss
    assert_equal_to_literal(logits.double(), label, 1e-9, 1e-8, formulas)


@pytest.mark.parametrize('side', range(16, 24))
def test_equals_the_formula_whatever_the_remainder(side):
    logits, label = random_case(3, (side, 39 - side))
    assert_equal_to_literal(logits.double(), label, 1e-9, 1e-9)


@pytest.mark.parametrize('rows', [4, 12, 40])
@pytest.mark.parametrize('region_bytes', [1, 10**9])
def test_tiles_and_chunks_do_not_matter(monkeypatch, rows, region_bytes):
    monkeypatch.setitem(execution.TILE_BYTES, 'cpu', 1)
    monkeypatch.setattr(execution, 'MIN_ROWS', rows)
    monkeypatch.setitem(rmi_lean._REGION_BYTES, 'cpu', region_bytes)
    for height in (39, 40, 41, 42):
        logits, label = random_case(7, (height, 30), batch=2)
        assert_equal_to_literal(logits.double(), label, 1e-9, 1e-9)


def test_many_classes_do_not_underflow():
    logits, label = random_case(300, (12, 16))
    logits *= 1e-3  # each class halves the product of max(p, 1 - p)
    assert_equal_to_literal(logits, label, 1e-6, 1e-5)


def test_an_absent_class_gets_no_gradient_from_the_rmi_term():
    logits, label = random_case(5, (32, 32))
    label[label == 3] = -1
    _, grad = loss_and_grad(rmi_loss, logits.double(), label)
    _, bce_grad = loss_and_grad(bce_loss, logits.double(), label)
    torch.testing.assert_close(grad[:, 3], 0.5 * bce_grad[:, 3])
    assert (grad[:, 2] - 0.5 * bce_grad[:, 2]).abs().max() > 1e-6


@pytest.mark.parametrize('num_classes', [19, 65])
def test_without_labels_the_loss_is_its_floor(num_classes):
    logits, label = random_case(num_classes, (24, 28), ignored=2)
    assert (label < 0).all()
    loss, grad = loss_and_grad(rmi_loss, logits, label)
    assert loss == pytest.approx(0.5 * num_classes * FLOOR, rel=1e-6)
    # Zero, but there: DDP waits for the gradients of all parameters.
    assert torch.equal(grad, torch.zeros_like(grad))
    loss, grad = loss_and_grad(bce_loss, logits, label)
    assert loss == 0
    assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize('function', [rmi_loss, bce_loss])
def test_gradient_against_finite_differences(function):
    logits, label = random_case(3, (11, 9), batch=2)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: function(x, label),
        logits,
        eps=1e-5,
        atol=1e-6,
        fast_mode=True,
    )


def half_plane(confidence, size=(512, 1024)):
    """A class with a straight border, predicted in the right place."""
    label = torch.zeros(1, *size, dtype=torch.int64)
    label[:, size[0] // 2 :] = 1
    logits = torch.where(label == 1, confidence, -confidence)[:, None]
    return torch.cat((-logits, logits), dim=1).float(), label


def exact_half_logdet(probs, labels):
    """By integers and 60 digits, for one pair of pooled maps."""
    rows, cols = (side - 2 for side in probs.shape)
    # Exact: float32 numbers of this size are multiples of 2 ** -50.
    maps = [(m.double() * 2**50).long().numpy() for m in (probs, labels)]
    regions = [
        m[y : y + rows, x : x + cols].ravel().astype(object)
        for m in maps
        for y in range(3)
        for x in range(3)
    ]
    length = rows * cols
    sums = [int(region.sum()) for region in regions]
    with mpmath.workdps(60):
        cov = mpmath.matrix(18, 18)
        for i in range(18):
            for j in range(i, 18):
                product = int(np.dot(regions[i], regions[j]))
                centred = length * product - sums[i] * sums[j]
                value = mpmath.mpf(centred) / length / mpmath.mpf(2) ** 100
                cov[i, j] = cov[j, i] = value
            cov[i, i] += mpmath.mpf(5e-4)
        factor = mpmath.cholesky(cov)
        return float(sum(mpmath.log(factor[i, i]) for i in range(9, 18)))


@pytest.mark.parametrize('confidence', [2.0, 12.0])
def test_ill_conditioned_covariance_against_60_digits(confidence):
    logits, label = half_plane(confidence)
    lean = rmi_lean.RMITiles(label, 2, logits.dtype, with_rmi=True)
    for rows in WholeLogits(logits).tiles(lean.pool, lean.offset):
        lean.value(logits[:, :, rows], rows)
    probs = lean.probs
    labels = rmi_lean._pooled_labels(label, probs)
    found, _ = rmi_lean._rmi_and_slope(probs[0, 1:], labels[0, 1:], False)
    expected = exact_half_logdet(probs[0, 1], labels[0, 1])
    assert found == pytest.approx(expected, abs=1e-4)


HARD = {
    'huge': lambda x, y: x * 1e4,
    'enormous': lambda x, y: x * 1e30,
    'half precision range': lambda x, y: x.sign() * 65504,
    'constant': lambda x, y: torch.full_like(x, 3.0),
    'zero': lambda x, y: torch.zeros_like(x),
    'perfect': lambda x, y: half_plane(100.0, (64, 96))[0],
    'all wrong': lambda x, y: -half_plane(1e4, (64, 96))[0],
    'constant patches': lambda x, y: (
        x[..., ::16, ::16].repeat_interleave(16, 2).repeat_interleave(16, 3)
    ),
}


@pytest.mark.parametrize('kind', HARD)
@pytest.mark.parametrize('function', [rmi_loss, bce_loss])
@pytest.mark.parametrize('labels', ['half plane', 'one class', 'one pixel'])
def test_finite_for_any_finite_logits(kind, function, labels):
    logits = torch.randn(1, 2, 64, 96)
    _, label = half_plane(1.0, (64, 96))
    if labels == 'one class':
        label = torch.zeros_like(label)
    elif labels == 'one pixel':
        label = torch.full_like(label, -1)
        label[0, 31, 40] = 1
    loss, grad = loss_and_grad(function, HARD[kind](logits, label), label)
    assert math.isfinite(loss)
    assert grad.isfinite().all()


def test_same_bits_each_time():
    logits, label = random_case(19, (64, 96), batch=2)
    first = loss_and_grad(rmi_loss, logits, label)
    again = loss_and_grad(rmi_loss, logits, label)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize('function', [rmi_loss, bce_loss])
def test_layout_of_the_logits_does_not_matter(function):
    logits, label = random_case(5, (36, 44), batch=2)
    loss, grad = loss_and_grad(function, logits, label)
    wide = torch.zeros(2, 5, 36, 90)
    wide[..., 1:89:2] = logits
    for other in (
        logits.to(memory_format=torch.channels_last),
        wide[..., 1:89:2],
    ):
        assert not other.is_contiguous()
        leaf = other.detach().requires_grad_()
        other_loss = function(leaf, label)
        (other_grad,) = torch.autograd.grad(other_loss, leaf)
        assert other_loss.item() == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(other_grad, grad)


def test_gradient_scales_with_what_comes_from_above():
    logits, label = random_case(4, (24, 24))
    _, grad = loss_and_grad(rmi_loss, logits, label)
    _, scaled = loss_and_grad(
        lambda x, y: rmi_loss(x, y) * 65536, logits, label
    )
    torch.testing.assert_close(scaled, grad * 65536)


@pytest.mark.parametrize('function', [rmi_loss, bce_loss])
def test_second_derivative_is_refused(function):
    logits, label = random_case(3, (16, 16))
    loss = function(logits.requires_grad_(), label)
    with pytest.raises(RuntimeError, match='without create_graph=True'):
        torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.needs_torch('freed_storages')
def test_memory_at_true_size():
    """40 MB beside the gradient, of 19 classes of 512 x 1024 pixels."""
    logits = torch.randn(1, 19, 512, 1024, requires_grad=True)
    label = torch.randint(19, (1, 512, 1024))
    peak = peak_live_bytes(lambda: RMILoss()(logits, label).backward())
    assert peak - logits.nbytes <= 40e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('num_classes', [19, 65])
def test_gpu_equals_cpu_without_waiting(num_classes):
    logits, label = random_case(num_classes, (68, 99), batch=2)
    expected, expected_grad = loss_and_grad(rmi_loss, logits, label)
    logits = logits.cuda().requires_grad_()
    label = label.cuda()
    rmi_loss(logits, label).backward()  # makes the handles of the libraries
    logits.grad = None
    torch.cuda.set_sync_debug_mode('error')
    try:
        loss = rmi_loss(logits, label)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(
        logits.grad.cpu(), expected_grad, rtol=1e-4, atol=1e-9
    )
