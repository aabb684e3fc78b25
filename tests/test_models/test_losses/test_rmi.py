"""RMILoss: against its formula, and as mmseg calls it."""

import math

import mpmath
import numpy as np
import pytest
import torch
from oracles.literal_rmi import literal_rmi_loss
from oracles.live_bytes import peak_live_bytes
from test_models.cases import BCE, RMI, cascade, learned, set_costs, step

from hmsa_mmseg.models.losses import RMILoss, rmi_formula, rmi_loss, rmi_tiles
from hmsa_mmseg.models.tiled.logit_rows import WholeLogits
from hmsa_mmseg.models.utils import execution

FLOOR = math.log(math.sqrt(5e-4) + 1e-8)
with_and_without_rmi = pytest.mark.parametrize('with_rmi', [True, False])


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


def loss_and_grad(function, logits, label, *args, **kwargs):
    logits = logits.detach().clone().requires_grad_()
    loss = function(logits, label, *args, **kwargs)
    (grad,) = torch.autograd.grad(loss, logits)
    return loss.item(), grad


def loss_of(with_rmi=True):
    """The loss of labels that are -1 where they do not count."""
    module = RMILoss(with_rmi=with_rmi)
    return lambda logits, label: module(logits, label, ignore_index=-1)


LOSSES = loss_of(), loss_of(False)


def assert_equal_to_literal(
    logits, label, loss_tol, grad_tol, functions=LOSSES
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


@pytest.mark.parametrize(
    ('num_classes', 'size', 'batch', 'ignored'),
    [
        (19, (64, 96), 2, 0.1),
        (65, (40, 52), 1, 0.1),
        (3, (35, 39), 1, 0.1),  # the last row and column are in no window
        (4, (8, 9), 2, 0.1),
        (5, (43, 8), 1, 0.9),
        (1, (21, 22), 2, 0.3),
    ],
)
def test_equals_the_formula(num_classes, size, batch, ignored):
    logits, label = random_case(num_classes, size, batch, ignored)
    label[0][label[0] == 2] = 1  # one class is absent
    assert_equal_to_literal(logits.double(), label, 1e-9, 1e-9)
    assert_equal_to_literal(logits, label, 1e-6, 1e-5)
    formulas = rmi_formula.rmi_loss, rmi_formula.bce_loss
    assert_equal_to_literal(logits.double(), label, 1e-9, 1e-8, formulas)


def test_equals_the_formula_whatever_the_remainder():
    for side in range(16, 24):
        logits, label = random_case(3, (side, 39 - side))
        assert_equal_to_literal(logits.double(), label, 1e-9, 1e-9)


@pytest.mark.parametrize(
    ('rows', 'region_bytes'), [(4, 1), (12, 10**9), (40, 1)]
)
def test_tiles_and_chunks_do_not_matter(monkeypatch, rows, region_bytes):
    set_costs(monkeypatch, tile_bytes=1, region_bytes=region_bytes)
    monkeypatch.setattr(execution, 'MIN_ROWS', rows)
    for height in (39, 40, 41, 42):
        logits, label = random_case(7, (height, 30), batch=2)
        assert_equal_to_literal(logits.double(), label, 1e-9, 1e-9)


def test_an_absent_class_gets_no_gradient_from_the_rmi_term():
    logits, label = random_case(5, (32, 32))
    label[label == 3] = -1
    _, grad = loss_and_grad(loss_of(), logits.double(), label)
    _, bce_grad = loss_and_grad(loss_of(False), logits.double(), label)
    torch.testing.assert_close(grad[:, 3], 0.5 * bce_grad[:, 3])
    assert (grad[:, 2] - 0.5 * bce_grad[:, 2]).abs().max() > 1e-6


@pytest.mark.fault(
    'a batch without labels: RMI',
    'a finite loss',
)
def test_without_labels_the_loss_is_its_floor():
    logits, label = random_case(19, (24, 28), ignored=2)
    assert (label < 0).all()
    for with_rmi, floor in ((True, 0.5 * 19 * FLOOR), (False, 0)):
        loss, grad = loss_and_grad(loss_of(with_rmi), logits, label)
        assert loss == pytest.approx(floor, rel=1e-6)
        # Zero, but there: DDP waits for the gradients of all parameters.
        assert torch.equal(grad, torch.zeros_like(grad))


@with_and_without_rmi
def test_gradient_against_finite_differences(with_rmi):
    logits, label = random_case(3, (11, 9), batch=2)
    logits = logits.double().requires_grad_()
    function = loss_of(with_rmi)
    assert torch.autograd.gradcheck(
        lambda x: function(x, label),
        logits,
        eps=1e-5,
        atol=1e-6,
        fast_mode=True,
    )
    with pytest.raises(RuntimeError, match='without create_graph=True'):
        torch.autograd.grad(function(logits, label), logits, create_graph=True)


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
    lean = rmi_tiles.RMITiles(label, 2, logits.dtype, with_rmi=True)
    for rows in WholeLogits(logits).tiles(lean.pool, lean.offset):
        lean.value(logits[:, :, rows], rows)
    probs = lean.probs
    labels = rmi_tiles._pooled_labels(label, probs)
    found, _ = rmi_tiles._rmi_and_slope(probs[0, 1:], labels[0, 1:], False)
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
@with_and_without_rmi
@pytest.mark.fault(
    'logits that are huge, constant, perfect or all wrong: RMI',
    'loss and gradient are finite',
)
def test_finite_for_any_finite_logits(kind, with_rmi):
    logits = torch.randn(1, 2, 64, 96)
    _, border = half_plane(1.0, (64, 96))
    one_pixel = torch.full_like(border, -1)
    one_pixel[0, 31, 40] = 1
    for label in (border, torch.zeros_like(border), one_pixel):
        found = HARD[kind](logits, label)
        loss, grad = loss_and_grad(loss_of(with_rmi), found, label)
        assert math.isfinite(loss)
        assert grad.isfinite().all()


def test_neither_layout_nor_what_comes_from_above_matters():
    logits, label = random_case(5, (36, 44), batch=2)
    loss, grad = loss_and_grad(loss_of(), logits, label)
    again, same = loss_and_grad(loss_of(), logits, label)
    assert again == loss
    assert torch.equal(same, grad)
    wide = torch.zeros(2, 5, 36, 90)
    wide[..., 1:89:2] = logits
    for other in (
        logits.to(memory_format=torch.channels_last),
        wide[..., 1:89:2],
    ):
        assert not other.is_contiguous()
        leaf = other.detach().requires_grad_()
        scaled = loss_of()(leaf, label) * 65536
        (other_grad,) = torch.autograd.grad(scaled, leaf)
        assert scaled.item() == pytest.approx(loss * 65536, rel=1e-6)
        torch.testing.assert_close(other_grad, grad * 65536)


@pytest.mark.needs_torch('freed_storages')
def test_memory_at_true_size():
    """40 MB beside the gradient, of 19 classes of 512 x 1024 pixels."""
    logits = torch.randn(1, 19, 512, 1024, requires_grad=True)
    label = torch.randint(19, (1, 512, 1024))
    peak = peak_live_bytes(lambda: RMILoss()(logits, label).backward())
    assert peak - logits.nbytes <= 40e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_gpu_equals_cpu_without_waiting():
    logits, label = random_case(19, (68, 99), batch=2)
    expected, expected_grad = loss_and_grad(loss_of(), logits, label)
    logits = logits.cuda().requires_grad_()
    label = label.cuda()
    loss_of()(logits, label).backward()  # makes the handles of the libraries
    logits.grad = None
    torch.cuda.set_sync_debug_mode('error')
    try:
        loss = loss_of()(logits, label)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(
        logits.grad.cpu(), expected_grad, rtol=1e-4, atol=1e-9
    )


# ------------------------------------------------------- as mmseg calls it


def small_case(num_classes=5, size=(16, 20)):
    logits = torch.randn(2, num_classes, *size)
    label = torch.randint(num_classes, (2, *size))
    label[:, :4] = 255
    return logits, label


def test_a_whole_model_trains_with_the_authors_losses(build_tiny, make_batch):
    """RMI on the blended logits, BCE on the auxiliary ones and the scales."""
    main = [RMI, dict(BCE, loss_name='loss_x')]
    heads = cascade(dict(BCE, loss_weight=0.4), loss_decode=main)
    loss_scale = dict(BCE, loss_weight=0.05)
    model = build_tiny(heads, decode_head=dict(loss_scale=loss_scale))
    losses, _ = step(model, make_batch())
    assert {key for key in losses if 'loss' in key} == {
        'decode.loss_rmi',
        'decode.loss_x',
        'aux.loss_bce',
        'scale_0.5.loss_bce',
        'scale_1.loss_bce',
    }
    assert learned(model) == {name for name, _ in model.named_parameters()}
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('ignore_index', [255, -1, 2, 10])
def test_ignored_pixels_do_not_count(ignore_index):
    logits, label = small_case()
    label[label == 2] = 3
    ignored = label == 255
    label[ignored] = ignore_index
    loss, grad = loss_and_grad(
        RMILoss(), logits, label, ignore_index=ignore_index
    )
    other = torch.where(ignored[:, None], torch.randn(()), logits)
    for kind in (torch.int32, torch.int64):
        found = RMILoss(loss_weight=0.4)(
            other, label.to(kind), ignore_index=ignore_index
        )
        assert found.item() == pytest.approx(0.4 * loss)
    assert not grad.masked_select(ignored[:, None]).any()
    assert grad.masked_select(~ignored[:, None]).all()


def test_without_an_ignore_index_every_label_is_a_class():
    logits, label = small_case()
    with pytest.raises(ValueError, match=r'found labels \[255\]'):
        RMILoss()(logits, label, ignore_index=None)
    label[label == 255] = 0
    loss = RMILoss()(logits, label, ignore_index=None)
    assert loss == RMILoss()(logits, label.to(torch.uint8))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@with_and_without_rmi
@pytest.mark.fault(
    'half precision or autocast: RMI',
    'computed in full precision',
)
def test_half_precision_and_autocast(dtype, with_rmi):
    logits, label = small_case()
    logits = logits.to(dtype)
    module = RMILoss(with_rmi=with_rmi)
    expected, expected_grad = loss_and_grad(module, logits.float(), label)
    for autocast in (True, False):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            assert module(logits, label).dtype == torch.float32
            loss, grad = loss_and_grad(module, logits, label)
        assert loss == expected
        assert torch.equal(grad, expected_grad.to(dtype))


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@with_and_without_rmi
@pytest.mark.fault(
    'a logit that is not finite: RMI',
    'the loss is NaN, for InvalidLossHook to see',
)
def test_a_logit_that_is_not_finite_shows(value, with_rmi):
    for row in (0, 9):  # ignored, and labelled
        logits, label = small_case()
        logits[1, 3, row, 7] = value
        loss, grad = loss_and_grad(RMILoss(with_rmi=with_rmi), logits, label)
        assert math.isnan(loss)
        assert grad.isnan().any()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'label': 5}, r'found labels \[5\].*0 to 4.*ignore_index=255'),
        ({'label': -1}, r'found labels \[-1\]'),
        ({'size': (16, 21)}, r'\(2, 16, 20\) do not fit.*\(2, 5, 16, 21\)'),
        ({'size': (7, 20)}, r'7x20.*8x8 or more'),
        ({'weight': torch.ones(2, 16, 20)}, 'no pixel weights.*`sampler`'),
        ({'avg_factor': 3.0}, "reduction 'mean' and no avg_factor"),
        ({'reduction_override': 'sum'}, "got 'sum' and None"),
    ],
)
@pytest.mark.fault(
    'a label that is no class, or a crop below 8x8: RMI',
    'refused, with values or sizes',
)
def test_calls_that_make_no_sense(change, message):
    logits, label = small_case(size=change.pop('size', (16, 20)))
    label = label[..., :20]
    if 'label' in change:
        label[1, 8, 9] = change.pop('label')
    with pytest.raises(ValueError, match=message):
        RMILoss()(logits, label, **change)
    # The least size.
    assert RMILoss(with_rmi=False)(*small_case(size=(7, 20))).isfinite()
    assert RMILoss()(*small_case(size=(8, 8))).isfinite()


def test_num_classes_is_ignored_and_warned_of_once(monkeypatch):
    said = []
    rmi_loss._warn_about_num_classes.cache_clear()
    monkeypatch.setattr(
        rmi_loss, 'print_log', lambda text, **_: said.append(text)
    )
    logits, label = small_case()
    for num_classes in (5, 7):
        found = RMILoss(num_classes)(logits, label)
        assert found == RMILoss()(logits, label)
    (text,) = said
    assert 'num_classes' in text


@with_and_without_rmi
def test_under_torch_compile(with_rmi):
    module = RMILoss(with_rmi=with_rmi)
    logits = torch.randn(2, 3, 65, 33, dtype=torch.float64)
    label = torch.randint(3, (2, 65, 33))
    loss, grad = loss_and_grad(module, logits, label)
    compiled = torch.compile(module, backend='aot_eager')
    found, found_grad = loss_and_grad(compiled, logits, label)
    assert found == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(found_grad, grad, rtol=1e-9, atol=1e-15)


@pytest.mark.fault(
    'a device without float64: RMI',
    'refused',
)
def test_devices_without_float64_are_refused(monkeypatch):
    logits, label = small_case()
    monkeypatch.setattr(rmi_loss, 'has_float64', lambda device: False)
    with pytest.raises(ValueError, match=r"float64, .* type 'cpu' does not"):
        RMILoss()(logits, label)
