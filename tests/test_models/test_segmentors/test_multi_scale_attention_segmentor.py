import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmseg.models.utils import resize
from mmseg.registry import MODELS

FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    dropout_ratio=0,
    num_classes=5,
    norm_cfg=dict(type='BN'),
)
AUX = dict(FCN, in_channels=8, in_index=0)


def assert_near(found, expected):
    """Compare logits up to the rounding of float32."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def predictions(model, inputs, scales, **test_cfg):
    model.test_cfg = ConfigDict(dict(mode='whole', scales=scales, **test_cfg))
    with torch.no_grad():
        return model.eval().encode_decode(inputs)


def test_all_modes(build_tiny, make_batch):
    model = build_tiny()
    inputs, samples = make_batch()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    before = copy.deepcopy(model.state_dict())
    data = dict(inputs=list(inputs), data_samples=samples)
    logged = model.train().train_step(data, wrapper)
    assert {'loss', 'decode.loss_ce', 'decode.acc_seg'} == logged.keys()
    after = model.state_dict()
    for key in (
        'decode_head.scale_attn.conv2.weight',
        'backbone.conv1.weight',
    ):
        assert not torch.equal(before[key], after[key]), key

    model.eval()
    with torch.no_grad():
        (result, _) = model.val_step(data)
        logits = model(inputs, mode='tensor')
    assert result.pred_sem_seg.data.shape == (1, 64, 64)
    assert result.seg_logits.data.shape == (5, 64, 64)
    assert logits.shape == (2, 5, 64, 64)
    # With gradients, the plain fusion runs; without, that in rows.
    assert_near(logits, model.encode_decode(inputs))


def test_predict_without_samples(build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, _ = make_batch(size=(37, 53))
    with torch.no_grad():
        results = model.predict(inputs)
        expected = model.encode_decode(inputs).argmax(dim=1, keepdim=True)
    assert torch.equal(
        torch.stack([r.pred_sem_seg.data for r in results]), expected
    )


def test_scale_one_equals_a_plain_encoder_decoder(
    build_tiny, tiny_model_cfg, make_batch
):
    model = build_tiny().eval()
    cfg = dict(
        type='EncoderDecoder',
        backbone=tiny_model_cfg()['backbone'],
        decode_head=dict(FCN),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    plain = MODELS.build(ConfigDict(cfg)).eval()
    state = {
        key.replace('decode_head.seg_head.', 'decode_head.'): value
        for key, value in model.state_dict().items()
        if 'scale_attn' not in key
    }
    plain.load_state_dict(state, strict=True)
    inputs, samples = make_batch(size=(40, 56))
    metas = [sample.metainfo for sample in samples]
    with torch.no_grad():
        expected = plain.encode_decode(inputs, metas)
    assert_near(predictions(model, inputs, (1.0,)), expected)


@pytest.mark.parametrize('size', [(64, 64), (67, 131), (33, 31), (9, 5)])
@pytest.mark.parametrize(
    'scales', [(0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0), (0.75, 1.5), (2.0,)]
)
def test_any_size_and_scales(build_tiny, make_batch, size, scales):
    model = build_tiny()
    inputs, _ = make_batch(size=size)
    logits = predictions(model, inputs, scales)
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


def test_order_of_scales_does_not_matter(build_tiny, make_batch):
    model = build_tiny()
    inputs, _ = make_batch()
    expected = predictions(model, inputs, (0.5, 1.0, 2.0))
    for scales in ([2, 0.5, 1], (1.0, 2.0, 0.5)):
        assert torch.equal(predictions(model, inputs, scales), expected)


def test_each_scale_runs_once_and_in_the_authors_order(build_tiny, make_batch):
    model = build_tiny(train_scales=(1.0, 0.5))
    sizes = []
    model.backbone.register_forward_pre_hook(
        lambda _, args: sizes.append(tuple(args[0].shape[2:]))
    )
    inputs, samples = make_batch(size=(64, 96))
    model.train().loss(inputs, samples)
    assert sizes == [(32, 48), (64, 96)]
    sizes.clear()
    predictions(model, inputs, (1.0, 0.5, 2.0))
    assert sizes == [(128, 192), (64, 96), (32, 48)]


def test_more_than_two_training_scales(build_tiny, make_batch):
    model = build_tiny(
        train_scales=(0.5, 1.0, 1.5),
        decode_head=dict(loss_scale=dict(type='CrossEntropyLoss')),
    )
    inputs, samples = make_batch()
    losses = model.loss(inputs, samples)
    assert losses.keys() == {
        'decode.loss_ce',
        'decode.acc_seg',
        'scale_0.5.loss_ce',
        'scale_1.loss_ce',
        'scale_1.5.loss_ce',
    }
    # In eval mode the training blend and the test blend are one function.
    model.eval()
    losses = model.loss(inputs, samples)
    logits = predictions(model, inputs, (0.5, 1.0, 1.5))
    expected = model.decode_head.seg_head.loss_by_feat(logits, samples)
    torch.testing.assert_close(losses['decode.loss_ce'], expected['loss_ce'])


def test_sizes_come_from_the_input_not_from_metas(build_tiny, make_batch):
    model = build_tiny()
    inputs, _ = make_batch(size=(32, 48))
    expected = predictions(model, inputs, (0.5, 1.0))
    wrong = [dict(img_shape=(7, 7), pad_shape=(9, 9), ori_shape=(3, 3))] * 2
    assert_near(model.encode_decode(inputs, wrong), expected)


def test_leaves_no_state_behind(build_tiny, make_batch):
    model = build_tiny()
    inputs, samples = make_batch()

    def names():
        return {
            f'{name}.{key}'
            for name, module in model.named_modules()
            for key in vars(module)
        }

    before = names()
    model.train().loss(inputs, samples)
    predictions(model, inputs, (0.5, 1.0, 2.0))
    assert names() == before


def test_slide_inference(build_tiny, make_batch):
    model = build_tiny()
    inputs, samples = make_batch(size=(64, 96))
    metas = [dict(sample.metainfo) for sample in samples]
    whole = predictions(model, inputs, (0.5, 1.0))
    slide = dict(
        mode='slide', scales=(0.5, 1.0), crop_size=(64, 96), stride=(32, 32)
    )
    model.test_cfg = ConfigDict(slide)
    with torch.no_grad():
        torch.testing.assert_close(model.inference(inputs, metas), whole)
        # Two windows side by side, without overlap.
        model.test_cfg.update(crop_size=(64, 48), stride=(64, 48))
        halves = [
            model.encode_decode(half) for half in inputs.split(48, dim=3)
        ]
        found = model.inference(inputs, metas)
    torch.testing.assert_close(found, torch.cat(halves, dim=3))


def test_padding_and_flip_are_undone(build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, samples = make_batch(batch_size=1, size=(64, 64))
    samples[0].set_metainfo(
        dict(
            padding_size=[0, 16, 0, 32],
            flip=True,
            flip_direction='horizontal',
            img_shape=(32, 48),
            ori_shape=(64, 96),
        )
    )
    with torch.no_grad():
        result = model.predict(inputs, samples)[0]
        logits = model.encode_decode(inputs)[..., :32, :48].flip(3)
        logits = resize(logits, (64, 96), mode='bilinear')
    assert result.pred_sem_seg.data.shape == (1, 64, 96)
    torch.testing.assert_close(result.seg_logits.data, logits[0])


def test_binary_with_one_channel(build_tiny, make_batch):
    seg_head = dict(
        FCN,
        num_classes=2,
        out_channels=1,
        threshold=0.4,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    model = build_tiny(
        seg_head=seg_head,
        decode_head=dict(
            loss_scale=dict(type='CrossEntropyLoss', use_sigmoid=True)
        ),
    )
    inputs, samples = make_batch(num_classes=2)
    losses = model.train().loss(inputs, samples)
    assert all(losses[key].isfinite().all() for key in losses)
    model.eval()
    with torch.no_grad():
        results = model.predict(inputs, samples)
        prob = model.encode_decode(inputs).sigmoid()
    expected = (prob > 0.4).float()
    found = torch.stack([r.pred_sem_seg.data for r in results])
    assert torch.equal(found, expected)


def test_auxiliary_heads_read_scale_one(build_tiny, make_batch):
    model = build_tiny(auxiliary_head=[AUX, AUX], train_scales=(0.5, 1, 2))
    shapes = []
    for head in model.auxiliary_head:
        head.convs[0].register_forward_pre_hook(
            lambda _, args: shapes.append(tuple(args[0].shape[2:]))
        )
    inputs, samples = make_batch()
    losses = model.loss(inputs, samples)
    assert {'aux_0.loss_ce', 'aux_1.loss_ce'} <= losses.keys()
    assert shapes == [(16, 16), (16, 16)]


def test_auxiliary_head_beside_a_cascade_loses_no_loss(build_tiny, make_batch):
    cascade = [
        dict(FCN),
        dict(
            type='OCRHead',
            in_channels=16,
            in_index=1,
            channels=8,
            ocr_channels=4,
            num_classes=5,
            norm_cfg=dict(type='BN'),
        ),
    ]
    model = build_tiny(seg_head=cascade, auxiliary_head=dict(AUX))
    inputs, samples = make_batch()
    assert {
        'decode.loss_ce',
        'aux.loss_ce',
        'backbone_aux.loss_ce',
        'backbone_aux.acc_seg',
    } <= model.loss(inputs, samples).keys()


def test_neck(build_tiny, make_batch):
    model = build_tiny(
        neck=dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=2)
    )
    inputs, samples = make_batch()
    loss = model.train().loss(inputs, samples)['decode.loss_ce']
    loss.backward()
    assert model.neck.fpn_convs[1].conv.weight.grad.abs().sum() > 0
    assert predictions(model, inputs, (0.5, 1.0)).shape == (2, 5, 64, 64)


def test_class_weights_and_ohem_of_the_seg_head(build_tiny, make_batch):
    seg_head = dict(
        FCN,
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100),
        loss_decode=[
            dict(type='CrossEntropyLoss', class_weight=[1, 2, 3, 4, 5]),
            dict(type='LovaszLoss', reduction='none'),
        ],
    )
    model = build_tiny(seg_head=seg_head)
    inputs, samples = make_batch()
    for sample in samples:  # mmseg's class weights cannot index 255
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 255] = 0
    losses = model.loss(inputs, samples)
    assert {'decode.loss_ce', 'decode.loss_lovasz'} <= losses.keys()


def test_all_ignored_labels_give_finite_losses(build_tiny, make_batch):
    model = build_tiny(
        decode_head=dict(
            loss_scale=dict(type='CrossEntropyLoss', avg_non_ignore=True)
        )
    )
    inputs, samples = make_batch()
    for sample in samples:
        sample.gt_sem_seg.data.fill_(255)
    losses = model.loss(inputs, samples)
    loss, _ = model.parse_losses(losses)
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(train_cfg=dict()), r'model\.train_cfg\.scales is missing'),
        (dict(test_cfg=dict(mode='whole')), r'model\.test_cfg\.scales is mi'),
        (dict(train_scales=(1.0,)), r'model\.train_cfg\.scales .* 2 or more'),
        (dict(train_scales=(0.5, 0.5)), r'model\.train_cfg\.scales must be'),
        (
            dict(test_cfg=dict(mode='whole', scales=(0, 1))),
            r'model\.test_cfg\.scales .* got 0 in \(0, 1\)',
        ),
        (
            dict(test_cfg=dict(mode='whole', scales=())),
            r'model\.test_cfg\.scales .* got \(\)',
        ),
    ],
)
def test_bad_scales_are_refused_at_build(tiny_model_cfg, cfg, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(tiny_model_cfg(**cfg))


def test_a_plain_decode_head_is_refused(tiny_model_cfg):
    cfg = tiny_model_cfg()
    cfg['decode_head'] = dict(FCN)
    with pytest.raises(TypeError, match='FCNHead does not combine scales'):
        MODELS.build(cfg)


def test_train_cfg_may_be_left_out_for_inference(tiny_model_cfg, make_batch):
    model = MODELS.build({**tiny_model_cfg(), 'train_cfg': None})
    inputs, samples = make_batch()
    assert predictions(model, inputs, (0.5, 1.0)).shape == (2, 5, 64, 64)
    with pytest.raises(ValueError, match=r'model\.train_cfg\.scales is mis'):
        model.loss(inputs, samples)
