import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

SIZE = (40, 56)
FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    dropout_ratio=0,
    num_classes=5,
    norm_cfg=dict(type='BN', requires_grad=True),
)
CASCADE = [
    dict(FCN, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    dict(
        type='OCRHead',
        in_channels=16,
        in_index=1,
        channels=8,
        ocr_channels=4,
        dropout_ratio=0,
        num_classes=5,
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
]
each_seg_head = pytest.mark.parametrize(
    'seg_head', [FCN, CASCADE], ids=['head', 'cascade']
)


@pytest.fixture
def build_pair(tiny_model_cfg):
    """Return a function for our model and mmseg's own of the same weights."""

    def build(seg_head=FCN, train_scales=(1.0,), test_scales=(1.0,)):
        cfg = tiny_model_cfg(train_scales=train_scales)
        cfg['decode_head'] = dict(
            type='MultiScaleAverageHead', seg_head=seg_head
        )
        cfg['test_cfg'] = dict(mode='whole', scales=test_scales)
        ours = MODELS.build(ConfigDict(cfg))
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


@each_seg_head
def test_one_scale_equals_the_stock_model(build_pair, make_batch, seg_head):
    ours, stock = build_pair(seg_head)
    inputs, samples = make_batch(size=SIZE)
    metas = [sample.metainfo for sample in samples]
    ours.eval()
    stock.eval()
    with torch.no_grad():
        expected = stock.encode_decode(inputs, metas)
        assert torch.equal(ours.encode_decode(inputs, metas), expected)


def test_training_at_one_scale_is_the_stock_model_s(build_pair, make_batch):
    ours, stock = build_pair()
    inputs, samples = make_batch(size=SIZE)
    losses, expected = (
        model.train().loss(inputs, samples) for model in (ours, stock)
    )
    assert losses.keys() == {'decode.loss_ce', 'decode.acc_seg'}
    for key in expected:
        assert torch.equal(losses[key], expected[key]), key
    for loss in (losses, expected):
        loss['decode.loss_ce'].backward()
    grads = dict(stock.named_parameters())
    for name, param in ours.named_parameters():
        name = name.replace('decode_head.seg_head.', 'decode_head.')
        assert torch.equal(param.grad, grads[name].grad), name
    # The running statistics of BN as well: each layer ran once.
    state = stock.state_dict()
    for name, value in ours.state_dict().items():
        name = name.replace('decode_head.seg_head.', 'decode_head.')
        assert torch.equal(value, state[name]), name


@each_seg_head
@pytest.mark.parametrize('scales', [(0.5, 1.0, 2.0), (0.75, 1.5), (2.0,)])
def test_mean_of_the_stock_model_s_logits(
    build_pair, make_batch, seg_head, scales
):
    """Mean of what mmseg's model says of each resized image."""
    ours, stock = build_pair(seg_head, test_scales=scales)
    inputs, samples = make_batch(size=SIZE)
    metas = [sample.metainfo for sample in samples]
    ours.eval()
    stock.eval()
    with torch.no_grad():
        maps = []
        for scale in scales:
            size = [int(side * scale) for side in SIZE]
            image = F.interpolate(inputs, size, mode='bilinear')
            # mmseg takes the size of the result from here.
            own = [{**m, 'img_shape': size, 'pad_shape': size} for m in metas]
            logits = stock.encode_decode(image, own)
            assert logits.shape[2:] == torch.Size(size)
            maps.append(F.interpolate(logits, SIZE, mode='bilinear'))
        fused = ours.encode_decode(inputs, metas)
    torch.testing.assert_close(fused, torch.stack(maps).mean(dim=0))


def test_losses_of_several_scales_are_those_of_the_mean(
    build_pair, make_batch
):
    scales = (0.5, 1.0)
    ours, _ = build_pair(CASCADE, train_scales=scales, test_scales=scales)
    inputs, samples = make_batch(size=SIZE)
    ours.eval()
    losses = ours.loss(inputs, samples)
    assert losses.keys() == {
        f'{part}.{key}'
        for part in ('decode', 'aux')
        for key in ('loss_ce', 'acc_seg')
    }
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)
    expected = F.cross_entropy(
        ours.encode_decode(inputs), label, ignore_index=255, reduction='none'
    ).mean()  # over all pixels, as mmseg's default
    torch.testing.assert_close(losses['decode.loss_ce'], expected)


def test_types(build_pair, make_batch):
    ours, _ = build_pair(test_scales=(0.5, 1.0))
    inputs, _ = make_batch(size=SIZE)
    ours.eval()
    with torch.no_grad():
        single = ours.encode_decode(inputs)
        with torch.autocast('cpu', torch.bfloat16):
            mixed = ours.encode_decode(inputs)
        double = ours.double().encode_decode(inputs.double())
    assert mixed.dtype == torch.float32
    assert double.dtype == torch.float64
    torch.testing.assert_close(mixed, single, atol=0.1, rtol=0.1)
    torch.testing.assert_close(double.float(), single)


def test_no_scale_is_an_error():
    cfg = dict(type='MultiScaleAverageHead', seg_head=FCN)
    with pytest.raises(ValueError, match='at least one scale'):
        MODELS.build(cfg).predict([], SIZE)
