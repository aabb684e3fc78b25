"""`model.test_cfg.scale_maps`: what each scale says, and its weight."""

import pytest
import torch
import torch.nn.functional as F
from test_models.cases import (
    BINARY,
    SCALES,
    build_head,
    predict,
    predict_all_classes,
    sample,
    with_cfg,
)

SLIDE = dict(mode='slide', crop_size=(32, 40), stride=(20, 24))
FIELDS = ('scale_weights', 'scale_attn', 'scale_sem_seg', 'confidence')


@pytest.fixture
def build(tiny_model_cfg, make_batch):
    """Return a function that builds a model whose attention varies."""

    def make(name, **kwargs):
        torch.manual_seed(3)
        model = build_head(tiny_model_cfg, name, train_scales=SCALES, **kwargs)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
                torch.nn.init.normal_(module.running_mean, 0, 0.1)
        for part in model.decode_head.attention_modules:
            for conv in part.modules():
                if isinstance(conv, torch.nn.Conv2d):
                    torch.nn.init.normal_(conv.weight, std=0.5)
        return predict_all_classes(model, make_batch()[0])

    return make


def mixed_samples(size):
    height, width = size
    return [
        sample(size),
        sample((height - 5, width - 3), padding_size=[1, 2, 0, 5]),
        sample(size, flip=True, flip_direction='horizontal'),
        sample((77, 121)),
    ]


@pytest.mark.parametrize(
    ('name', 'cfg'),
    [
        ('hierarchical', dict()),
        ('hierarchical', SLIDE),
        ('plain', dict()),
        ('attention-to-scale', SLIDE),
        ('average', dict()),
    ],
)
def test_the_prediction_is_the_same_and_each_scale_is_as_alone(
    name, cfg, build, make_batch
):
    size = (47, 61)
    model = build(name)
    inputs, _ = make_batch(batch_size=4, size=size)
    samples = mixed_samples(size)
    expected = predict(with_cfg(model, **cfg), inputs, samples)
    found = predict(with_cfg(model, scale_maps=True, **cfg), inputs, samples)
    for one, other in zip(found, expected):
        assert one.scales == SCALES
        assert not set(FIELDS) & set(other.keys())
        torch.testing.assert_close(
            one.seg_logits.data, other.seg_logits.data, rtol=0, atol=2e-5
        )
        same = one.pred_sem_seg.data == other.pred_sem_seg.data
        assert same.float().mean() > 0.999
        confidence = other.seg_logits.data.softmax(0).amax(0, keepdim=True)
        torch.testing.assert_close(
            one.confidence.data, confidence, rtol=0, atol=1e-5
        )
        weights = one.scale_weights.data
        assert weights.shape == (3, *one.ori_shape)
        assert weights.min() >= 0
        torch.testing.assert_close(
            weights.sum(0), torch.ones(one.ori_shape), rtol=0, atol=1e-5
        )
        assert one.scale_sem_seg.data.dtype == torch.int16
    if name == 'attention-to-scale':
        return  # cannot be tested at one scale
    for i, scale in enumerate(SCALES):
        alone = predict(
            with_cfg(model, **dict(cfg, scales=(scale,))), inputs, samples
        )
        assert max(len(one.pred_sem_seg.data.unique()) for one in alone) > 1
        for one, other in zip(found, alone):
            classes = other.pred_sem_seg.data
            same = one.scale_sem_seg.data[i : i + 1] == classes
            assert same.float().mean() > 0.999


def test_weights_are_the_products_of_attention(build, make_batch):
    """At scales of at most 1.0 everything is blended at the input's size."""
    scales = (0.25, 0.5, 1.0)
    model = with_cfg(build('hierarchical'), scales=scales, scale_maps=True)
    inputs, _ = make_batch(size=(64, 96))
    found = predict(model, inputs)
    attns = []
    with torch.no_grad():
        for scale in scales[:-1]:
            scaled = F.interpolate(inputs, scale_factor=scale, mode='bilinear')
            head, feats = model.decode_head, model.extract_feat(scaled)
            attn = head.scale_attn(head.forward_seg_heads(feats)[-1])
            attn = F.interpolate(attn, scaled.shape[2:], mode='bilinear')
            attns.append(F.interpolate(attn, (64, 96), mode='bilinear'))
    lo, mid = attns
    expected = torch.cat([lo, (1 - lo) * mid, (1 - lo) * (1 - mid)], dim=1)
    assert lo.std() > 0.01
    for i, one in enumerate(found):
        torch.testing.assert_close(
            one.scale_attn.data, torch.cat(attns, dim=1)[i]
        )
        torch.testing.assert_close(
            one.scale_weights.data, expected[i], rtol=0, atol=1e-5
        )


def test_a_flip_is_undone_in_all_maps(build, make_batch):
    model = with_cfg(build('hierarchical'), scale_maps=True)
    inputs, _ = make_batch(batch_size=1, size=(48, 80))
    [plain] = predict(model, inputs, [sample((48, 80))])
    [flipped] = predict(
        model,
        inputs,
        [sample((48, 80), flip=True, flip_direction='horizontal')],
    )
    for name in (*FIELDS, 'pred_sem_seg', 'seg_logits'):
        one, other = getattr(plain, name).data, getattr(flipped, name).data
        assert torch.equal(one.flip(-1), other), name


def test_one_scale_has_all_the_weight(build, make_batch):
    model = with_cfg(build('hierarchical'), scales=(1.0,), scale_maps=True)
    inputs, _ = make_batch(batch_size=1)
    [found] = predict(model, inputs)
    assert torch.equal(found.scale_weights.data, torch.ones(1, 64, 64))
    assert 'scale_attn' not in found
    assert torch.equal(
        found.scale_sem_seg.data.long(), found.pred_sem_seg.data
    )


def test_classes_only_and_a_single_channel(build, make_batch):
    model = build('hierarchical', seg_head=BINARY)
    inputs, _ = make_batch(batch_size=1)
    predict_all_classes(model, inputs)
    [logits] = predict(with_cfg(model), inputs)
    [found] = predict(
        with_cfg(model, scale_maps=True, classes_only=True), inputs
    )
    assert 'seg_logits' not in found
    probability = logits.seg_logits.data
    given = logits.pred_sem_seg.data.bool()
    # Between the threshold and a half, it is that of the unlikelier class.
    assert (given & (probability < 0.5)).any()
    torch.testing.assert_close(
        found.confidence.data,
        torch.where(given, probability, 1 - probability),
    )
    assert torch.equal(
        found.pred_sem_seg.data.bool(), logits.pred_sem_seg.data.bool()
    )
