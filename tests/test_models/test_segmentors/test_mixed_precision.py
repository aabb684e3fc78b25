"""Under autocast the network runs in half precision, blending does not."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import AmpOptimWrapper

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a GPU'
)
needs_float16 = pytest.mark.needs_torch('float16_on_cpu')
each_case = pytest.mark.parametrize(
    ('device', 'dtype'),
    [
        ('cpu', torch.bfloat16),
        pytest.param('cpu', torch.float16, marks=needs_float16),
        pytest.param('cuda', torch.bfloat16, marks=needs_gpu),
        pytest.param('cuda', torch.float16, marks=needs_gpu),
    ],
)
LOSS_SCALE = dict(type='CrossEntropyLoss', loss_weight=0.05)


def to_device(batch, device):
    inputs, samples = batch
    return inputs.to(device), [sample.to(device) for sample in samples]


@each_case
def test_blending_is_in_float32(device, dtype, build_tiny, make_batch):
    model = build_tiny().eval().to(device)
    inputs, _ = to_device(make_batch(), device)
    with torch.no_grad():
        exact = model.encode_decode(inputs)
        with torch.autocast(device, dtype=dtype):
            feats = model.extract_feat(inputs)
            seg_logits, _, scale_attn = model.decode_head(feats)
            fused = model.encode_decode(inputs)
    assert seg_logits.dtype == dtype
    assert scale_attn.dtype == torch.float32
    assert fused.dtype == torch.float32
    assert (fused - exact).abs().max() < 0.05 * exact.abs().max()
    # Rounded to half precision it would be one of few values.
    assert not torch.equal(fused.to(dtype).float(), fused)


@each_case
@pytest.mark.parametrize(
    'head', ['HierarchicalMSAttentionHead', 'AttentionToScaleHead']
)
def test_losses_and_gradients(head, device, dtype, build_tiny, make_batch):
    train_cfg = dict(scales=(0.5, 1.0))
    decode_head = dict(type=head, loss_scale=LOSS_SCALE)
    if head == 'AttentionToScaleHead':
        decode_head['num_scales'] = 2
    test_cfg = dict(mode='whole', scales=(0.5, 1.0))
    torch.manual_seed(1)
    model = build_tiny(
        train_cfg=train_cfg,
        test_cfg=test_cfg,
        decode_head=decode_head,
    ).to(device)
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
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_amp_optim_wrapper_trains(dtype, build_tiny, make_batch):
    model = build_tiny().cuda().train()
    inputs, samples = make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    wrapper = AmpOptimWrapper(
        optimizer=optimizer,
        dtype=str(dtype).removeprefix('torch.'),
        loss_scale='dynamic',
    )
    logged = [
        model.train_step(
            dict(inputs=list(inputs), data_samples=samples), wrapper
        )['loss']
        for _ in range(3)
    ]
    assert all(torch.isfinite(loss) for loss in logged)
    assert all(param.dtype == torch.float32 for param in model.parameters())


@pytest.mark.parametrize(
    'dtype',
    [torch.bfloat16, pytest.param(torch.float16, marks=needs_float16)],
)
def test_whole_model_in_half_precision(dtype, build_tiny, make_batch):
    """As `val_cfg=dict(fp16=True)` of older recipes and `model.half()`."""
    model = build_tiny().eval()
    inputs, _ = make_batch()
    model.test_cfg = ConfigDict(mode='whole', scales=(0.5, 1.0, 2.0))
    with torch.no_grad():
        exact = model.encode_decode(inputs)
        fused = model.to(dtype).encode_decode(inputs.to(dtype))
    assert fused.dtype == torch.float32
    assert (fused - exact).abs().max() < 0.05 * exact.abs().max()
