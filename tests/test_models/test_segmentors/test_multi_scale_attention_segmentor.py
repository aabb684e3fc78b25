"""The whole model: its modes, scales, parts, and types."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from test_models.cases import (
    AUX,
    BINARY,
    CE,
    MEAN,
    RMI,
    build_head,
    cascade,
    learned,
    predict,
    set_costs,
    step,
    with_cfg,
)

from hmsa_mmseg.models import prepare_for_inference

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a GPU'
)
FLOAT16 = pytest.param(
    torch.float16, marks=pytest.mark.needs_torch('float16_on_cpu')
)
each_dtype = pytest.mark.parametrize('dtype', [torch.bfloat16, FLOAT16])
each_device = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=needs_gpu)]
)


def predictions(model, inputs, scales):
    with torch.no_grad():
        return with_cfg(model, scales=scales).encode_decode(inputs)


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
    # With gradients, the plain fusion runs; without, that in rows. Sizes are
    # those of the images.
    wrong = [dict(img_shape=(7, 7), pad_shape=(9, 9), ori_shape=(3, 3))] * 2
    plain = model.encode_decode(inputs, wrong)
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('size', 'scales'),
    [
        ((64, 64), (2.0,)),
        ((67, 131), (0.25, 0.5, 1.0, 2.0)),
        ((33, 31), (0.75, 1.5)),
        ((9, 5), (0.5, 1.0, 2.0)),
    ],
)
@pytest.mark.fault(
    'images of odd and small sizes at four scales',
    'logits of exactly the size of the image',
)
def test_any_size_and_scales(build_tiny, make_batch, size, scales):
    inputs, _ = make_batch(size=size)
    logits = predictions(build_tiny(), inputs, scales)
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


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
    expected = predictions(model, inputs, (1.0, 0.5, 2.0))
    assert sizes == [(128, 192), (64, 96), (32, 48)]
    found = predictions(model, inputs, [2, 0.5, 1])
    assert torch.equal(found, expected)


def test_more_than_two_training_scales(build_tiny, make_batch):
    model = build_tiny(
        train_scales=(0.5, 1.0, 1.5),
        decode_head=dict(loss_scale=dict(type='CrossEntropyLoss')),
    )
    inputs, samples = make_batch()
    # In eval mode the training blend and the test blend are one function.
    losses = model.eval().loss(inputs, samples)
    assert losses.keys() == {
        'decode.loss_ce',
        'decode.acc_seg',
        'scale_0.5.loss_ce',
        'scale_1.loss_ce',
        'scale_1.5.loss_ce',
    }
    logits = predictions(model, inputs, (0.5, 1.0, 1.5))
    expected = model.decode_head.seg_head.loss_by_feat(logits, samples)
    torch.testing.assert_close(losses['decode.loss_ce'], expected['loss_ce'])


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


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('loss', [CE, RMI, dict(type='DiceLoss')])
def test_auxiliary_heads_in_tiles(
    build_tiny, make_batch, monkeypatch, loss, align_corners
):
    """What mmseg's heads compute from whole logits."""
    set_costs(monkeypatch, tile_bytes=1)
    aux = dict(AUX, align_corners=align_corners, loss_decode=loss)
    model = build_tiny(auxiliary_head=aux).double()
    inputs, samples = make_batch(size=(67, 45))
    feats = model.extract_feat(inputs.double())
    weight = model.auxiliary_head.conv_seg.weight
    found = model._auxiliary_head_forward_train(feats, samples)
    expected = model.auxiliary_head.loss(feats, samples, {})
    assert found.keys() == {f'aux.{key}' for key in expected}
    key = model.auxiliary_head.loss_decode.loss_name
    one, other = found[f'aux.{key}'], expected[key]
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert torch.allclose(found['aux.acc_seg'], expected['acc_seg'])
    grads = [torch.autograd.grad(x, weight)[0] for x in (one, other)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)


def test_auxiliary_heads_read_scale_one(build_tiny, make_batch):
    batch = make_batch()
    model = build_tiny(auxiliary_head=[AUX, AUX], train_scales=(0.5, 1, 2))
    shapes = []
    for head in model.auxiliary_head:
        head.convs[0].register_forward_pre_hook(
            lambda _, args: shapes.append(tuple(args[0].shape[2:]))
        )
    losses = model.loss(*batch)
    assert {'aux_0.loss_ce', 'aux_1.loss_ce'} <= losses.keys()
    assert shapes == [(16, 16), (16, 16)]
    # Beside a cascade no loss is lost.
    losses = build_tiny(cascade(), auxiliary_head=AUX).loss(*batch)
    names = {'decode.loss_ce', 'aux.loss_ce', 'backbone_aux.loss_ce'}
    assert {*names, 'backbone_aux.acc_seg'} <= losses.keys()


def test_neck(build_tiny, make_batch):
    neck = dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=2)
    model = build_tiny(neck=neck)
    batch = make_batch()
    step(model.train(), batch)
    assert model.neck.fpn_convs[1].conv.weight.grad.abs().sum() > 0
    assert predictions(model, batch[0], (0.5, 1.0)).shape == (2, 5, 64, 64)


@pytest.mark.fault(
    'a batch without labels: cross-entropy',
    'the loss is 0, and all parameters have gradients',
)
def test_losses_of_one_channel_and_without_labels(build_tiny, make_batch):
    scale_loss = dict(loss_scale=dict(BINARY['loss_decode']))
    model = build_tiny(BINARY, decode_head=scale_loss)
    _, total = step(model.train(), make_batch(num_classes=2))
    assert total.isfinite()
    model = build_tiny(decode_head=dict(loss_scale=MEAN))
    inputs, samples = make_batch()
    for sample in samples:
        sample.gt_sem_seg.data.fill_(255)
    _, total = step(model, (inputs, samples))
    assert total == 0
    assert learned(model) == {name for name, _ in model.named_parameters()}


def test_models_of_the_zoo(zoo_case, build_tiny, make_batch):
    model = build_tiny(**zoo_case)
    inputs, samples = make_batch(size=(64, 96))
    before = {k: v.clone() for k, v in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    losses, _ = model.parse_losses(model.train().loss(inputs, samples))
    wrapper.update_params(losses)
    changed = {
        key
        for key, value in model.named_parameters()
        if not torch.equal(value, before[key])
    }
    is_cascade = isinstance(zoo_case['seg_head'], list)
    name = 'seg_head.1' if is_cascade else 'seg_head'
    # Every part learns, the attention branch included.
    assert any(key.startswith('backbone.') for key in changed)
    assert 'decode_head.scale_attn.conv0.weight' in changed
    assert f'decode_head.{name}.conv_seg.weight' in changed

    model.eval()
    prepared = prepare_for_inference(copy.deepcopy(model))
    with torch.no_grad():
        (result, _) = model.predict(inputs, samples)
        expected, found = (
            one.encode_decode(inputs) for one in (model, prepared)
        )
    assert result.seg_logits.data.shape == (5, 64, 96)
    assert result.seg_logits.data.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert any('running_mean' in key for key in model.state_dict())
    assert not any('running_mean' in key for key in prepared.state_dict())


# ------------------------------------------------------- half precision


def to_device(batch, device):
    inputs, samples = batch
    return inputs.to(device), [sample.to(device) for sample in samples]


def assert_near(found, exact, dtype):
    """Compare logits that were blended in float32."""
    assert found.dtype == torch.float32
    difference = (found - exact).abs().max()
    assert 0 < difference < 0.05 * exact.abs().max()
    # Rounded to half precision it would be one of few values.
    assert not torch.equal(found.to(dtype).float(), found)


@each_device
@each_dtype
def test_dtype_and_autocast(device, dtype, build_lively, make_batch):
    model = with_cfg(build_lively().to(device))
    inputs, samples = to_device(make_batch(), device)
    exact = [one.seg_logits.data for one in predict(model, inputs, samples)]
    seen = []
    for module in (model.backbone.conv1, model.decode_head.scale_attn.conv0):
        module.register_forward_hook(
            lambda _, args, output: seen.append(output.dtype)
        )

    def check():
        found = predict(model, inputs, samples)
        assert set(seen) == {dtype}
        seen.clear()
        for one, other in zip(found, exact):
            assert_near(one.seg_logits.data, other, dtype)

    with torch.autocast(device, dtype=dtype):
        check()
    with_cfg(model, dtype=str(dtype).removeprefix('torch.'))
    check()
    # Stronger than the type of a loop (`val_cfg=dict(fp16=True)`).
    with torch.autocast(device, dtype=torch.bfloat16):
        check()
    model.train().loss(inputs, samples)
    assert set(seen) == {torch.float32}


@each_device
@each_dtype
@pytest.mark.parametrize('head', ['hierarchical', 'attention-to-scale'])
def test_losses_and_gradients(head, device, dtype, tiny_model_cfg, make_batch):
    test_cfg = dict(mode='whole', scales=(0.5, 1.0))
    torch.manual_seed(1)
    model = build_head(tiny_model_cfg, head, test_cfg=test_cfg).to(device)
    batch = to_device(make_batch(), device)
    seen = []
    seg_head = model.decode_head.seg_head
    compute = seg_head.loss_by_feat

    def spy(logits, samples):
        seen.append(logits.dtype)
        return compute(logits, samples)

    seg_head.loss_by_feat = spy

    def gradients(enabled):
        model.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            losses = model.loss(*batch)
        assert all(value.dtype == torch.float32 for value in losses.values())
        total, _ = model.parse_losses(losses)
        # The backward pass runs outside, as in AmpOptimWrapper.
        total.backward()
        grads = [param.grad for param in model.decode_head.parameters()]
        return total.item(), torch.cat([grad.flatten() for grad in grads])

    exact_loss, exact = gradients(False)
    loss, found = gradients(True)
    assert seen == [torch.float32] * 2
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert loss == pytest.approx(exact_loss, rel=0.02)
    assert (found - exact).norm() < 0.1 * exact.norm()


@each_dtype
def test_whole_model_in_half_precision(dtype, build_lively, make_batch):
    """As `val_cfg=dict(fp16=True)` of older recipes and `model.half()`."""
    model = with_cfg(build_lively())
    inputs, _ = make_batch()
    with torch.no_grad():
        exact = model.encode_decode(inputs)
        fused = model.to(dtype).encode_decode(inputs.to(dtype))
    assert_near(fused, exact, dtype)
