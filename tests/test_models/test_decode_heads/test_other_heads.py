"""The baselines: attention to scale, and the mean of the scales."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from test_models.cases import CE, FCN, MEAN, SCALES, build_head, cascade, step

SIZE = (32, 48)


def build(seg_head=FCN, **kwargs):
    cfg = dict(type='AttentionToScaleHead', seg_head=seg_head, attn_channels=6)
    return MODELS.build({**cfg, **kwargs})


def feats_of(scales=SCALES, size=SIZE):
    """Features of each scale; the heads read the second map."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for scale in scales:
        h, w = (math.ceil(int(s * scale) / 4) for s in size)
        found.append(
            (scale, (None, torch.randn(2, 16, h, w, generator=generator)))
        )
    return found


def highest_first(pairs):
    return reversed(list(pairs))


def up(x, size):
    return F.interpolate(x, size, mode='bilinear', align_corners=False)


def written_out(head, inputs, size):
    """Chen et al.'s blend of every seg head's logits, step by step."""
    features, logits = {}, {}
    for scale, feats in inputs:
        logits[scale], _, features[scale] = head.forward_seg_heads(feats)
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
    """Take the attention away from equal weights."""
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    for param in head.scale_attn.parameters():
        param.data *= 2
    return head.eval()


@pytest.mark.parametrize(
    ('seg_head', 'size'),
    [
        (dict(FCN, loss_decode=MEAN), (37, 51)),
        (cascade(loss_decode=MEAN), SIZE),
    ],
    ids=['head', 'OCR'],
)
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
    if isinstance(seg_head, list):
        expected['aux.loss_ce'] = 0.4 * ce(blends[0])
    found = {key for key in losses if 'acc' not in key}
    assert found == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    losses['decode.loss_ce'].backward()
    for name, param in head.named_parameters():
        # The first head's classifier learns from OCR's attention, too.
        assert param.grad is not None, name
        assert param.grad.abs().sum() > 0, name


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


def test_types():
    head = liven(build())
    inputs = feats_of()
    seen = []
    head.scale_attn.conv0.register_forward_hook(
        lambda _, args, output: seen.append(args[0].dtype)
    )
    single = head.predict(highest_first(inputs), SIZE)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = head.predict(highest_first(inputs), SIZE)
    # Features that are joined stay small.
    assert seen == [torch.float32, torch.bfloat16]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, single, atol=0.1, rtol=0.1)
    inputs = [(scale, (None, f.double())) for scale, (_, f) in inputs]
    double = head.double().predict(highest_first(inputs), SIZE)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


def test_another_number_of_scales_is_refused(make_batch, tiny_model_cfg):
    message = r'scales must hold model\.decode_head\.num_scales=3 scales'
    head, inputs = build(), feats_of((0.5, 1.0))
    with pytest.raises(ValueError, match=rf'test_cfg\.{message}.*got \('):
        head.predict(highest_first(inputs), SIZE)
    with pytest.raises(ValueError, match=rf'train_cfg\.{message}'):
        head.loss(inputs, SIZE, make_batch(size=SIZE)[1])
    for name, scales in (
        ('train_cfg', (0.5, 1.0)),
        ('test_cfg', (0.25, 0.5, 1.0, 2.0)),
    ):
        cfg = tiny_model_cfg(train_scales=SCALES)
        cfg['decode_head'].update(type='AttentionToScaleHead')
        MODELS.build(ConfigDict(cfg))
        cfg[name] = dict(cfg[name], scales=scales)
        with pytest.raises(ValueError, match=rf'model\.{name}\.{message}'):
            MODELS.build(ConfigDict(cfg))
    for num_scales in (1, 2.0, True, '3', None):
        with pytest.raises(ValueError, match=r'\.num_scales must be'):
            build(num_scales=num_scales)


# --------------------------------------------------------------- the mean


ODD = (40, 56)


@pytest.fixture
def build_pair(tiny_model_cfg):
    """Return a function for our model and mmseg's own of the same weights."""

    def build(seg_head=FCN, scales=(1.0,)):
        cfg = tiny_model_cfg()
        ours = build_head(
            tiny_model_cfg,
            'average',
            seg_head,
            train_scales=scales,
            test_cfg=dict(mode='whole', scales=scales),
        )
        cfg.update(
            type='EncoderDecoder',
            decode_head=seg_head,
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
        if isinstance(seg_head, list):
            cfg.update(type='CascadeEncoderDecoder', num_stages=2)
        stock = MODELS.build(ConfigDict(cfg))
        for name, buffer in stock.named_buffers():
            if name.endswith('running_mean'):
                torch.nn.init.normal_(buffer, 0, 0.1)
        state = {
            key.replace('decode_head.', 'decode_head.seg_head.'): value
            for key, value in stock.state_dict().items()
        }
        ours.load_state_dict(state, strict=True)
        return ours, stock

    return build


@pytest.mark.parametrize('fast', [False, True])
def test_training_at_one_scale_is_the_stock_model_s(
    build_pair, make_batch, fast
):
    ours, stock = build_pair()
    ours.decode_head.fast = fast

    def is_same(x, other):
        # Sums over tiles are in another order.
        return torch.allclose(x, other, 1e-5 * fast, 1e-7 * fast)

    batch = make_batch(size=ODD)
    losses, expected = (
        step(model.train(), batch)[0] for model in (ours, stock)
    )
    assert losses.keys() == {'decode.loss_ce', 'decode.acc_seg'}
    for key in expected:
        assert is_same(losses[key], expected[key]), key
    grads = dict(stock.named_parameters())
    for name, param in ours.named_parameters():
        name = name.replace('decode_head.seg_head.', 'decode_head.')
        assert is_same(param.grad, grads[name].grad), name
    # The running statistics of BN as well: each layer ran once.
    state = stock.state_dict()
    for name, value in ours.state_dict().items():
        name = name.replace('decode_head.seg_head.', 'decode_head.')
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ('seg_head', 'scales'),
    [(FCN, (1.0,)), (FCN, (0.75, 1.5)), (cascade(), SCALES)],
)
def test_mean_of_the_stock_model_s_logits(
    build_pair, make_batch, seg_head, scales
):
    """Mean of what mmseg's model says of each resized image."""
    ours, stock = build_pair(seg_head, scales)
    inputs, samples = make_batch(size=ODD)
    metas = [sample.metainfo for sample in samples]
    ours.eval()
    stock.eval()
    with torch.no_grad():
        maps = []
        for scale in scales:
            size = [int(side * scale) for side in ODD]
            image = F.interpolate(inputs, size, mode='bilinear')
            # mmseg takes the size of the result from here.
            own = [{**m, 'img_shape': size, 'pad_shape': size} for m in metas]
            logits = stock.encode_decode(image, own)
            assert logits.shape[2:] == torch.Size(size)
            maps.append(F.interpolate(logits, ODD, mode='bilinear'))
        fused = ours.encode_decode(inputs, metas)
    torch.testing.assert_close(fused, torch.stack(maps).mean(dim=0))


def test_losses_of_several_scales_are_those_of_the_mean(
    build_pair, make_batch
):
    ours, _ = build_pair(cascade(loss_decode=CE), (0.5, 1.0))
    inputs, samples = make_batch(size=ODD)
    losses = ours.eval().loss(inputs, samples)
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)
    expected = F.cross_entropy(
        ours.encode_decode(inputs), label, ignore_index=255, reduction='none'
    ).mean()  # over all pixels, as mmseg's default
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    assert 'aux.loss_ce' in losses
    with pytest.raises(ValueError, match='at least one scale'):
        ours.decode_head.predict([], ODD)
