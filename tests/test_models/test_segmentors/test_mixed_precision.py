"""Backbone and heads run in half precision, blending does not."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from test_models.cases import build_head, predict, with_cfg

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
LOSS_SCALE = dict(type='CrossEntropyLoss', loss_weight=0.05)


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


@needs_gpu
@each_dtype
def test_amp_optim_wrapper_trains(dtype, build_tiny, make_batch):
    model = build_tiny().cuda().train()
    inputs, samples = make_batch()
    data = dict(inputs=list(inputs), data_samples=samples)
    wrapper = AmpOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        dtype=str(dtype).removeprefix('torch.'),
        loss_scale='dynamic',
    )
    for _ in range(3):
        assert torch.isfinite(model.train_step(data, wrapper)['loss'])
    assert all(param.dtype == torch.float32 for param in model.parameters())


@each_dtype
def test_whole_model_in_half_precision(dtype, build_lively, make_batch):
    """As `val_cfg=dict(fp16=True)` of older recipes and `model.half()`."""
    model = with_cfg(build_lively())
    inputs, _ = make_batch()
    with torch.no_grad():
        exact = model.encode_decode(inputs)
        fused = model.to(dtype).encode_decode(inputs.to(dtype))
    assert_near(fused, exact, dtype)
