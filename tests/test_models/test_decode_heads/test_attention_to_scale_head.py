import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS

NORM = dict(type='BN', requires_grad=True)
SIZE = (32, 48)
SCALES = (0.5, 1.0, 2.0)
FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=-1,
    channels=8,
    num_convs=1,
    dropout_ratio=0,
    num_classes=5,
    norm_cfg=NORM,
)
MEAN = dict(type='CrossEntropyLoss', avg_non_ignore=True)


def cascade():
    aux = dict(FCN, loss_decode=dict(MEAN, loss_weight=0.4))
    ocr = dict(
        type='OCRHead',
        in_channels=16,
        channels=8,
        ocr_channels=4,
        dropout_ratio=0,
        num_classes=5,
        norm_cfg=NORM,
        loss_decode=MEAN,
    )
    return [aux, ocr]


def config(seg_head=None, **kwargs):
    cfg = dict(
        type='AttentionToScaleHead',
        seg_head=seg_head or dict(FCN, loss_decode=MEAN),
        attn_channels=6,
    )
    cfg.update(kwargs)
    return cfg


def build(*args, **kwargs):
    return MODELS.build(config(*args, **kwargs))


def feats_of(scales=SCALES, size=SIZE, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    found = []
    for scale in scales:
        h, w = (math.ceil(int(s * scale) / 4) for s in size)
        feats = torch.randn(batch, 16, h, w, generator=generator, dtype=dtype)
        found.append((scale, (feats,)))
    return found


def highest_first(pairs):
    return reversed(list(pairs))


def up(x, size):
    return F.interpolate(x, size, mode='bilinear', align_corners=False)


def as_in_mmseg(seg_head):
    """The same head, with the classifier that `head` calls in its place."""
    plain = copy.copy(seg_head)
    vars(plain).pop('cls_seg', None)
    return plain


def classifier_input(head, feats):
    """What a head's conv_seg reads, and what it gives, by hand."""
    seen = []
    last = head.seg_heads[-1]
    with last.conv_seg.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    ):
        stages = []
        for seg_head in head.seg_heads:
            plain = as_in_mmseg(seg_head)
            stages.append(plain(feats, *stages[-1:]))
    return seen[0], stages


def written_out(head, inputs, size):
    """Chen et al.'s blend of every seg head's logits, step by step."""
    features, logits = {}, {}
    for scale, feats in inputs:
        features[scale], logits[scale] = classifier_input(head, feats)
    like = features[1.0].shape[2:]
    x = torch.cat([up(features[s], like) for s in sorted(features)], dim=1)
    branch = head.scale_attn
    for conv, bn in ((branch.conv0, branch.bn0), (branch.conv1, branch.bn1)):
        x = F.conv2d(x, conv.weight, padding=1)
        mean, var = (
            v[None, :, None, None] for v in (bn.running_mean, bn.running_var)
        )
        x = (x - mean) / (var + bn.eps).sqrt()
        weight, bias = (p[None, :, None, None] for p in (bn.weight, bn.bias))
        x = F.relu(x * weight + bias)
    x = F.conv2d(x, branch.conv2.weight)
    weights = up(x.exp() / x.exp().sum(dim=1, keepdim=True), size)
    blends, singles = [], []
    for stage in range(len(head.seg_heads)):
        fused = 0
        for i, scale in enumerate(sorted(logits)):
            own = [int(side * scale) for side in size]
            at_input = up(up(logits[scale][stage], own), size)
            fused = fused + weights[:, i : i + 1] * at_input
            if stage == len(head.seg_heads) - 1:
                singles.append(at_input)
        blends.append(fused)
    return blends, singles


def liven(head):
    """Give BN values that tell a wrong order of the scales from a right."""
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    for param in head.scale_attn.parameters():
        param.data *= 2  # away from equal weights
    return head.eval()


@pytest.mark.parametrize('seg_head', [None, cascade()], ids=['head', 'OCR'])
@pytest.mark.parametrize('size', [(32, 48), (37, 51)])
def test_equals_the_written_out_formula(make_batch, seg_head, size):
    head = liven(build(seg_head, loss_scale=dict(MEAN, loss_weight=0.05)))
    inputs = feats_of(size=size)
    blends, singles = written_out(head, inputs, size)
    fused = head.predict(highest_first(inputs), size)
    assert fused.shape == (2, 5, *size)
    torch.testing.assert_close(fused, blends[-1])

    _, samples = make_batch(size=size)
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)

    def ce(logits):
        return F.cross_entropy(logits, label, ignore_index=255)

    losses = head.loss(inputs, size, samples)
    expected = {'decode.loss_ce': ce(blends[-1])}
    for scale, logits in zip(SCALES, singles):
        expected[f'scale_{scale:g}.loss_ce'] = 0.05 * ce(logits)
    if seg_head:
        expected['aux.loss_ce'] = 0.4 * ce(blends[0])
    found = {key for key in losses if 'acc' not in key}
    assert found == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)


def at_input(head, inputs, size=SIZE):
    """Each scale's logits at the input's size."""
    maps = []
    for scale, feats in inputs:
        logits = as_in_mmseg(head.seg_head)(feats)
        own = [int(side * scale) for side in size]
        maps.append(up(up(logits, own), size))
    return maps


def test_equal_weights_give_the_mean():
    head = build().eval()
    torch.nn.init.zeros_(head.scale_attn.conv2.weight)
    inputs = feats_of()
    fused = head.predict(highest_first(inputs), SIZE)
    mean = torch.stack(at_input(head, inputs)).mean(dim=0)
    torch.testing.assert_close(fused, mean)


@pytest.mark.parametrize('chosen', [0, 1, 2])
def test_saturated_attention_gives_one_scale(chosen):
    head = build().eval()
    branch = head.scale_attn
    torch.nn.init.zeros_(branch.conv2.weight)
    # ReLU of a shifted norm is positive: the chosen logit is large.
    torch.nn.init.constant_(branch.bn1.bias, 10.0)
    branch.conv2.weight.data[chosen] = 10.0
    inputs = feats_of()
    fused = head.predict(highest_first(inputs), SIZE)
    torch.testing.assert_close(fused, at_input(head, inputs)[chosen])


def test_weights_are_positive_and_add_up_to_one():
    head = liven(build())
    inputs = feats_of(size=(33, 47))
    feats = [classifier_input(head, f)[0] for _, f in inputs]
    weights = head.scale_weights(SCALES, feats, (33, 47))
    assert [tuple(w.shape) for w in weights] == [(2, 1, 33, 47)] * 3
    assert min(w.min() for w in weights) >= 0
    torch.testing.assert_close(sum(weights), torch.ones(2, 1, 33, 47))
    assert torch.stack(weights).std(dim=0).mean() > 0.01  # not all alike


@pytest.mark.parametrize(
    ('scales', 'like'), [((0.25, 0.5, 1.0), 1.0), ((0.5, 0.75, 2.0), 0.75)]
)
def test_features_are_joined_at_the_scale_nearest_to_one(scales, like):
    head = build().eval()
    sizes = []
    head.scale_attn.register_forward_pre_hook(
        lambda _, args: sizes.append(tuple(args[0].shape))
    )
    inputs = feats_of(scales)
    head.predict(highest_first(inputs), SIZE)
    h, w = (math.ceil(side * like / 4) for side in SIZE)
    assert sizes == [(2, 24, h, w)]


def test_attention_and_every_parameter_get_gradients(make_batch):
    _, samples = make_batch(size=SIZE)
    head = build(cascade()).train()
    head.loss(feats_of(), SIZE, samples)['decode.loss_ce'].backward()
    for name, param in head.named_parameters():
        # The first head's classifier learns from OCR's attention, too.
        assert param.grad is not None, name
        assert param.grad.abs().sum() > 0, name


def test_gradients_of_the_weights_are_exact():
    """Finite differences through softmax, resizing and blend."""
    head = liven(build(attn_channels=2)).double()
    inputs = feats_of(size=(8, 8), batch=1, dtype=torch.float64)
    weight = head.scale_attn.conv2.weight.detach().clone().requires_grad_()
    # A plain attribute takes the tensors that gradcheck makes.
    del head.scale_attn.conv2.weight

    def fused(weight):
        head.scale_attn.conv2.weight = weight
        return head.predict(highest_first(inputs), (8, 8))

    assert torch.autograd.gradcheck(fused, (weight,))


def test_half_precision_blends_in_float32(make_batch):
    head = liven(build(loss_scale=dict(MEAN, loss_weight=0.05)))
    inputs = feats_of()
    seen = []
    head.scale_attn.conv0.register_forward_hook(
        lambda _, args, output: seen.append(output.dtype)
    )
    single = head.predict(highest_first(inputs), SIZE)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = head.predict(highest_first(inputs), SIZE)
        losses = head.loss(inputs, SIZE, make_batch(size=SIZE)[1])
    assert seen[1:] == [torch.bfloat16] * 2
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, single, atol=0.1, rtol=0.1)
    for key, loss in losses.items():
        if 'loss' in key:
            assert loss.dtype == torch.float32, key


def test_float64_stays():
    head = liven(build())
    inputs = feats_of()
    single = head.predict(highest_first(inputs), SIZE)
    inputs = [(scale, (f.double(),)) for scale, (f,) in inputs]
    double = head.double().predict(highest_first(inputs), SIZE)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


@pytest.mark.parametrize('scales', [(1.0,), (0.5, 1.0), (0.25, 0.5, 1, 2)])
def test_another_number_of_scales_is_refused(scales, make_batch):
    head = build()
    inputs = feats_of(scales)
    with pytest.raises(
        ValueError,
        match=r'model\.test_cfg\.scales must hold '
        r'model\.decode_head\.num_scales=3 scales.*got \(',
    ):
        head.predict(highest_first(inputs), SIZE)
    with pytest.raises(ValueError, match=r'model\.train_cfg\.scales must'):
        head.loss(inputs, SIZE, make_batch(size=SIZE)[1])


@pytest.mark.parametrize('num_scales', [1, 0, 2.0, True, '3', None])
def test_num_scales_must_be_a_number_of_scales(num_scales):
    with pytest.raises(ValueError, match=r'decode_head\.num_scales must be'):
        build(num_scales=num_scales)


@pytest.mark.parametrize('name', ['train_cfg', 'test_cfg'])
def test_other_scales_are_refused_when_the_model_is_built(
    tiny_model_cfg, name
):
    cfg = tiny_model_cfg(train_scales=SCALES)
    cfg['decode_head'] = config()
    MODELS.build(ConfigDict(cfg))
    for scales in ((0.5, 1.0), (0.25, 0.5, 1.0, 2.0)):
        cfg[name] = dict(mode='whole', scales=scales)
        if name == 'train_cfg':
            del cfg[name]['mode']
        with pytest.raises(
            ValueError,
            match=rf'model\.{name}\.scales must hold '
            r'model\.decode_head\.num_scales=3 scales',
        ):
            MODELS.build(ConfigDict(cfg))


def test_attention_alone_can_be_trained(tiny_model_cfg, make_batch):
    cfg = tiny_model_cfg(train_scales=SCALES)
    cfg['decode_head'] = config(loss_scale=dict(MEAN, loss_weight=0.05))
    cfg['train_cfg']['attention_only'] = True
    model = MODELS.build(ConfigDict(cfg)).train()
    loss, _ = model.parse_losses(model.loss(*make_batch()))
    loss.backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    branch = model.decode_head.scale_attn.named_parameters()
    assert trained == {f'decode_head.scale_attn.{name}' for name, _ in branch}


def test_norm_layers():
    gn = dict(type='GN', num_groups=2)
    own = build(norm_cfg=gn).scale_attn
    assert isinstance(own.bn0, torch.nn.GroupNorm)
    none = build(dict(FCN, norm_cfg=None)).scale_attn
    assert isinstance(none.bn1, torch.nn.BatchNorm2d)
    assert own.conv2.out_channels == 3
    assert own.conv2.bias is None


def test_a_whole_model_trains_and_predicts(tiny_model_cfg, make_batch):
    cfg = tiny_model_cfg(train_scales=SCALES)
    cfg['decode_head'] = config()
    cfg['auxiliary_head'] = dict(FCN, in_channels=8, in_index=0)
    model = MODELS.build(ConfigDict(cfg))
    inputs, samples = make_batch()
    sizes = []
    handle = model.backbone.register_forward_pre_hook(
        lambda _, args: sizes.append(tuple(args[0].shape[2:]))
    )
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    data = dict(inputs=list(inputs), data_samples=samples)
    logged = model.train().train_step(data, wrapper)
    assert {'decode.loss_ce', 'aux.loss_ce'} <= logged.keys()
    # The order in which BN sees the scales; each of them once.
    assert sizes == [(32, 32), (64, 64), (128, 128)]
    handle.remove()
    model.eval()
    with torch.no_grad():
        (result, _) = model.val_step(data)
        logits = model.encode_decode(inputs[:, :, :45, :53])
    assert result.pred_sem_seg.data.shape == (1, 64, 64)
    assert logits.shape == (2, 5, 45, 53)
    assert logits.isfinite().all()
