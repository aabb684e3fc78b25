"""RMILoss as mmseg calls it; what it computes is in test_rmi_lean."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS

from hmsa_mmseg.models.losses import RMILoss, rmi_loss

GOLDEN = Path(__file__).parents[2] / 'data/golden'
RMI = dict(type='RMILoss')
BCE = dict(RMI, with_rmi=False)


def golden_case(seed, shape, ignored):
    """Logits and labels as tests/data/golden/README.md describes them."""

    def generator(seed):
        return np.random.Generator(np.random.PCG64(seed))

    logits = 3 * generator(seed).standard_normal(shape).astype(np.float32)
    rng = generator(seed + 100)
    n, num_classes, h, w = shape

    def blocks(size, draw):
        grid = draw((n, math.ceil(h / size), math.ceil(w / size)))
        return grid.repeat(size, 1).repeat(size, 2)[:, :h, :w]

    label = blocks(16, lambda size: rng.integers(0, num_classes, size))
    label[blocks(8, rng.random) < ignored] = 255
    return torch.from_numpy(logits), torch.from_numpy(label)


def small_case(num_classes=5, size=(16, 20)):
    logits = torch.randn(2, num_classes, *size)
    label = torch.randint(num_classes, (2, *size))
    label[:, :4] = 255
    return logits, label


def loss_and_grad(loss_module, logits, label, **kwargs):
    logits = logits.detach().clone().requires_grad_()
    loss = loss_module(logits, label, **kwargs)
    (grad,) = torch.autograd.grad(loss, logits)
    return loss, grad


@pytest.mark.parametrize(
    ('name', 'seed', 'shape', 'with_rmi', 'ignored', 'step'),
    [
        ('rmi_c19', 30, (2, 19, 64, 96), True, 0.1, 2),
        ('rmi_c19_bce_only', 31, (2, 19, 64, 96), False, 0.1, 2),
        ('rmi_c65_67x99', 32, (1, 65, 67, 99), True, 0.1, 4),
        ('rmi_c19_61x83_mostly_ignored', 33, (2, 19, 61, 83), True, 0.9, 4),
        ('rmi_c19_33x47_all_ignored', 34, (1, 19, 33, 47), True, 1.0, 4),
    ],
)
def test_equals_the_authors(name, seed, shape, with_rmi, ignored, step):
    logits, label = golden_case(seed, shape, ignored)
    loss, grad = loss_and_grad(RMILoss(with_rmi=with_rmi), logits, label)
    with np.load(GOLDEN / f'{name}.npz') as expected:
        assert loss.item() == pytest.approx(float(expected['loss']), rel=1e-6)
        error = np.abs(grad[..., ::step, ::step].numpy() - expected['grad'])
        assert error.max() <= 1e-5 * np.abs(expected['grad']).max()


def test_is_built_by_mmseg():
    loss = MODELS.build(dict(RMI, loss_weight=0.4))
    assert isinstance(loss, RMILoss)
    assert loss.loss_name == 'loss_rmi'
    assert MODELS.build(BCE).loss_name == 'loss_bce'
    assert MODELS.build(dict(BCE, loss_name='loss_x')).loss_name == 'loss_x'
    logits, label = small_case()
    full = MODELS.build(RMI)(logits, label)
    torch.testing.assert_close(loss(logits, label), 0.4 * full)


@pytest.mark.parametrize('ignore_index', [255, -1, 2, 10])
def test_ignored_pixels_do_not_count(ignore_index):
    logits, label = small_case()
    label[label == 2] = 3
    ignored = label == 255
    label[ignored] = ignore_index
    loss_module = RMILoss()
    loss, grad = loss_and_grad(
        loss_module, logits, label, ignore_index=ignore_index
    )
    other = torch.where(ignored[:, None], torch.randn(()), logits)
    other_loss, _ = loss_and_grad(
        loss_module, other, label, ignore_index=ignore_index
    )
    assert loss == other_loss
    assert not grad.masked_select(ignored[:, None]).any()
    assert grad.masked_select(~ignored[:, None]).all()


def test_without_an_ignore_index_every_label_is_a_class():
    logits, label = small_case()
    with pytest.raises(ValueError, match=r'found labels \[255\]'):
        RMILoss()(logits, label, ignore_index=None)
    label[label == 255] = 0
    loss = RMILoss()(logits, label, ignore_index=None)
    assert loss == RMILoss()(logits, label)


def test_labels_of_another_type():
    logits, label = small_case()
    expected = RMILoss()(logits, label)
    assert RMILoss()(logits, label.to(torch.uint8)) == expected
    assert RMILoss()(logits, label.int()) == expected


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('with_rmi', [True, False])
@pytest.mark.parametrize('autocast', [True, False])
def test_half_precision_logits(dtype, with_rmi, autocast):
    logits, label = small_case()
    logits = logits.to(dtype)
    loss_module = RMILoss(with_rmi=with_rmi)
    expected, expected_grad = loss_and_grad(loss_module, logits.float(), label)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        loss, grad = loss_and_grad(loss_module, logits, label)
    assert loss.dtype == torch.float32
    assert loss == expected
    assert torch.equal(grad, expected_grad.to(dtype))


def test_autocast_leaves_float32_alone():
    logits, label = small_case()
    expected = loss_and_grad(RMILoss(), logits, label)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = loss_and_grad(RMILoss(), logits, label)
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('with_rmi', [True, False])
@pytest.mark.parametrize('row', [0, 9], ids=['ignored', 'labelled'])
def test_a_logit_that_is_not_finite_shows(value, with_rmi, row):
    logits, label = small_case()
    logits[1, 3, row, 7] = value
    loss, grad = loss_and_grad(RMILoss(with_rmi=with_rmi), logits, label)
    assert loss.isnan()
    assert grad.isnan().any()


def test_no_graph_where_none_is_asked_for():
    logits, label = small_case()
    assert not RMILoss()(logits, label).requires_grad


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'label': 5}, r'found labels \[5\].*0 to 4.*ignore_index=255'),
        ({'label': -1}, r'found labels \[-1\]'),
        ({'size': (16, 21)}, r'\(2, 16, 20\) do not fit.*\(2, 5, 16, 21\)'),
        ({'weight': torch.ones(2, 16, 20)}, 'no pixel weights.*`sampler`'),
        ({'avg_factor': 3.0}, "reduction 'mean' and no avg_factor"),
        ({'reduction_override': 'sum'}, "got 'sum' and None"),
    ],
)
def test_calls_that_make_no_sense(change, message):
    logits, label = small_case(size=change.pop('size', (16, 20)))
    label = label[..., :20]
    if 'label' in change:
        label[1, 8, 9] = change.pop('label')
    with pytest.raises(ValueError, match=message):
        RMILoss()(logits, label, **change)


def test_num_classes_is_ignored_and_warned_of_once(monkeypatch):
    said = []
    rmi_loss._warn_about_num_classes.cache_clear()
    monkeypatch.setattr(
        rmi_loss, 'print_log', lambda text, **_: said.append(text)
    )
    logits, label = small_case()
    expected, expected_grad = loss_and_grad(RMILoss(), logits, label)
    for num_classes in (5, 7):
        loss, grad = loss_and_grad(RMILoss(num_classes), logits, label)
        assert loss == expected
        assert torch.equal(grad, expected_grad)
    (text,) = said
    assert 'num_classes' in text


def test_a_crop_must_hold_one_region():
    logits, label = small_case(size=(7, 20))
    with pytest.raises(ValueError, match=r'7x20.*8x8 or more'):
        RMILoss()(logits, label)
    assert RMILoss(with_rmi=False)(logits, label).isfinite()
    logits, label = small_case(size=(8, 8))
    assert RMILoss()(logits, label).isfinite()


def test_a_decode_head_trains_with_it(build_tiny, make_batch):
    head = dict(
        type='FCNHead',
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        num_classes=5,
        norm_cfg=dict(type='BN'),
        loss_decode=[dict(RMI), dict(BCE, loss_weight=0.5)],
    )
    model = build_tiny(head)
    losses = model.loss(*make_batch())
    assert {'decode.loss_rmi', 'decode.loss_bce'} < losses.keys()
    assert_every_parameter_learns(model, losses)


def test_the_recipe_of_the_authors(build_tiny, make_batch):
    """RMI on the blended logits, BCE on the auxiliary ones and the scales."""
    common = dict(channels=8, num_classes=5, norm_cfg=dict(type='BN'))
    cascade = [
        dict(
            type='FCNHead',
            in_channels=16,
            in_index=1,
            num_convs=1,
            loss_decode=dict(BCE, loss_weight=0.4),
            **common,
        ),
        dict(
            type='OCRHead',
            in_channels=16,
            in_index=1,
            ocr_channels=4,
            loss_decode=dict(RMI),
            **common,
        ),
    ]
    loss_scale = dict(BCE, loss_weight=0.05)
    model = build_tiny(cascade, decode_head=dict(loss_scale=loss_scale))
    losses = model.loss(*make_batch())
    assert {key for key in losses if 'loss' in key} == {
        'decode.loss_rmi',
        'aux.loss_bce',
        'scale_0.5.loss_bce',
        'scale_1.loss_bce',
    }
    assert_every_parameter_learns(model, losses)


def assert_every_parameter_learns(model, losses):
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('with_rmi', [True, False])
def test_under_torch_compile(with_rmi):
    module = RMILoss(with_rmi=with_rmi)
    logits = torch.randn(2, 3, 65, 33, dtype=torch.float64)
    label = torch.randint(3, (2, 65, 33))
    losses, grads = [], []
    for function in (module, torch.compile(module, backend='aot_eager')):
        x = logits.clone().requires_grad_()
        losses.append(function(x, label))
        grads.append(torch.autograd.grad(losses[-1], x)[0])
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-15)


def test_devices_without_float64_are_refused(monkeypatch):
    logits, label = small_case()
    monkeypatch.setattr(rmi_loss, 'has_float64', lambda device: False)
    with pytest.raises(ValueError, match=r"float64, .* type 'cpu' does not"):
        RMILoss()(logits, label)
