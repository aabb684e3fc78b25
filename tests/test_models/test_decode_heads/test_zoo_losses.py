"""mmseg's losses for rare classes and hard pixels, through the head."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from test_models.cases import FCN, MEAN, WEIGHTED, WEIGHTS, learned, step

HARD = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)


@pytest.mark.parametrize(
    ('loss', 'sampler'),
    [
        (WEIGHTED, None),
        (WEIGHTED, HARD),
        (MEAN, dict(HARD, thresh=None)),
        (dict(type='LovaszLoss', per_image=True, class_weight=WEIGHTS), HARD),
        ([WEIGHTED, dict(type='DiceLoss', loss_weight=3.0)], None),
    ],
)
def test_trains(loss, sampler, build_tiny, make_batch):
    # Labels of make_batch have ignored pixels.
    seg_head = dict(FCN, loss_decode=loss, sampler=sampler)
    scale_loss = dict(WEIGHTED, loss_weight=0.05)
    model = build_tiny(seg_head, decode_head=dict(loss_scale=scale_loss))
    losses, total = step(model, make_batch())
    names = [
        MODELS.build(cfg).loss_name
        for cfg in (loss if isinstance(loss, list) else [loss])
    ]
    scales = {'scale_0.5.loss_ce', 'scale_1.loss_ce'}
    expected = {f'decode.{name}' for name in [*names, 'acc_seg']}
    assert set(losses) == expected | scales
    assert all(0 < losses[key] < 0.05 * 5 for key in scales)
    assert total > 0
    assert learned(model) == {name for name, _ in model.named_parameters()}
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_hard_pixels_are_chosen_on_the_blend(build_tiny, make_batch):
    """The sampler sees the logits that the loss sees, once each step."""
    model = build_tiny(dict(FCN, loss_decode=MEAN, sampler=HARD))
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


@pytest.mark.parametrize('ignored', [0, 3, 7])
@pytest.mark.fault(
    'class weights where labels hold 255',
    'the loss of torch; 0 where no pixel has a label',
)
def test_class_weights_are_torchs(ignored):
    logits, label = logits_and_label(ignored)
    loss = MODELS.build(dict(WEIGHTED, loss_weight=0.4))
    weight = torch.tensor(WEIGHTS, dtype=torch.double)
    for reduction in ('mean', 'none', 'sum'):
        found = loss(
            logits, label, ignore_index=255, reduction_override=reduction
        )
        expected = 0.4 * F.cross_entropy(
            logits, label, weight, ignore_index=255, reduction=reduction
        )
        if ignored == 7 and reduction == 'mean':
            expected = 0 * logits.sum()  # where torch's mean is NaN
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        found, expected = (
            torch.autograd.grad(value.sum(), logits)[0]
            for value in (found, expected)
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_divisor_of_class_weights_is_no_choice():
    MODELS.build(dict(WEIGHTED, avg_non_ignore=True))
    with pytest.raises(ValueError, match='avg_non_ignore=False; expected'):
        MODELS.build(dict(WEIGHTED, avg_non_ignore=False))


def test_is_mmsegs_where_all_pixels_have_a_label():
    logits, label = logits_and_label(ignored=0)
    stock = dict(type='CrossEntropyLoss', class_weight=WEIGHTS)
    expected = MODELS.build(stock)(logits, label, ignore_index=255)
    found = MODELS.build(WEIGHTED)(logits, label, ignore_index=255)
    torch.testing.assert_close(found, expected)
