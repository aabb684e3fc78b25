"""mmseg's losses for rare classes and hard pixels, through the head."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0]
CLASS_WEIGHTED = dict(
    type='ClassWeightedCrossEntropyLoss', class_weight=WEIGHTS
)
CROSS_ENTROPY = dict(type='CrossEntropyLoss', avg_non_ignore=True)
HARD = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)
HARDEST = dict(type='OHEMPixelSampler', min_kept=100)


def seg_head(loss, sampler=None):
    return dict(
        type='FCNHead',
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        dropout_ratio=0,
        num_classes=5,
        norm_cfg=dict(type='BN'),
        sampler=sampler,
        loss_decode=loss,
    )


@pytest.mark.parametrize(
    ('loss', 'sampler'),
    [
        (CLASS_WEIGHTED, None),
        (CLASS_WEIGHTED, HARD),
        (CLASS_WEIGHTED, HARDEST),
        (CROSS_ENTROPY, HARD),
        (CROSS_ENTROPY, HARDEST),
        (dict(type='DiceLoss'), None),
        (dict(type='LovaszLoss', per_image=True, class_weight=WEIGHTS), HARD),
        (dict(type='TverskyLoss', class_weight=WEIGHTS), None),
        ([CLASS_WEIGHTED, dict(type='DiceLoss', loss_weight=3.0)], None),
    ],
)
def test_trains(loss, sampler, build_tiny, make_batch):
    # Labels of make_batch have ignored pixels.
    model = build_tiny(seg_head(loss, sampler))
    losses = model.loss(*make_batch())
    names = [
        MODELS.build(cfg).loss_name
        for cfg in (loss if isinstance(loss, list) else [loss])
    ]
    expected = {f'decode.{name}' for name in [*names, 'acc_seg']}
    assert set(losses) == expected
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    assert total > 0
    total.backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


def test_class_weights_on_each_scale(build_tiny, make_batch):
    scale_loss = dict(CLASS_WEIGHTED, loss_weight=0.05)
    model = build_tiny(
        seg_head(CLASS_WEIGHTED), decode_head=dict(loss_scale=scale_loss)
    )
    losses = model.loss(*make_batch())
    scales = [losses[f'scale_{scale}.loss_ce'] for scale in ('0.5', '1')]
    assert all(0 < loss < 0.05 * 5 for loss in scales)


def test_hard_pixels_are_chosen_on_the_blend(build_tiny, make_batch):
    """The sampler sees the logits that the loss sees, once each step."""
    model = build_tiny(seg_head(CROSS_ENTROPY, HARD))
    head = model.decode_head.seg_heads[0]
    sampled, seen = [], []
    sample, loss = head.sampler.sample, head.loss_decode.forward
    head.sampler.sample = lambda logits, label: (
        sampled.append(logits) or sample(logits, label)
    )
    head.loss_decode.forward = lambda logits, *args, **kwargs: (
        seen.append((logits, kwargs['weight']))
        or loss(logits, *args, **kwargs)
    )
    model.loss(*make_batch())
    ((logits, weight),) = seen
    assert len(sampled) == 1
    assert sampled[0] is logits
    assert logits.shape == (2, 5, 64, 64)
    assert set(weight.unique().tolist()) <= {0, 1}
    assert weight[:, :3].sum() == 0  # not labelled
    assert weight.sum() >= 200


def logits_and_label(ignored):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, 9, generator=generator, dtype=torch.double)
    label = torch.randint(0, 5, (2, 7, 9), generator=generator)
    label[:, :ignored] = 255
    return logits.requires_grad_(), label


@pytest.mark.parametrize('ignored', [0, 3])
def test_weighted_mean_is_torchs(ignored):
    logits, label = logits_and_label(ignored)
    loss = MODELS.build(dict(CLASS_WEIGHTED, loss_weight=0.4))
    found = loss(logits, label, ignore_index=255)
    weight = torch.tensor(WEIGHTS, dtype=torch.double)
    expected = 0.4 * F.cross_entropy(logits, label, weight, ignore_index=255)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (found_grad,) = torch.autograd.grad(found, logits)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found_grad, expected_grad, rtol=1e-6, atol=0)


def test_is_mmsegs_where_all_pixels_have_a_label():
    logits, label = logits_and_label(ignored=0)
    stock = dict(type='CrossEntropyLoss', class_weight=WEIGHTS)
    expected = MODELS.build(stock)(logits, label, ignore_index=255)
    found = MODELS.build(CLASS_WEIGHTED)(logits, label, ignore_index=255)
    torch.testing.assert_close(found, expected)


def test_nothing_labelled_gives_zero():
    logits, label = logits_and_label(ignored=7)
    loss = MODELS.build(CLASS_WEIGHTED)(logits, label, ignore_index=255)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_other_reductions(reduction):
    logits, label = logits_and_label(ignored=2)
    loss = MODELS.build(CLASS_WEIGHTED)
    found = loss(logits, label, ignore_index=255, reduction_override=reduction)
    weight = torch.tensor(WEIGHTS, dtype=torch.double)
    expected = F.cross_entropy(
        logits, label, weight, ignore_index=255, reduction=reduction
    )
    torch.testing.assert_close(found, expected)
