"""Losses in tiles of rows against those of whole logits.

Every case is compared with the plain way, mmseg's own ``loss_by_feat`` on
what ``fuse_scales`` gives: values, accuracies, gradients of all maps.
"""

import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from oracles.live_bytes import peak_live_bytes
from test_models.cases import BN, CE, RMI, WEIGHTED, WEIGHTS
from test_models.cases import MEAN as MEAN_ALONE

from hmsa_mmseg.models.decode_heads import tile_losses
from hmsa_mmseg.models.decode_heads.seg_heads import SegHeadOutputs
from hmsa_mmseg.models.scale_fusion import scaled_size
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits
from hmsa_mmseg.models.tiled.loss_walk import Accuracy
from hmsa_mmseg.models.utils import execution

K = 5
SIZE = (67, 99)
MEAN = dict(MEAN_ALONE, loss_weight=0.4)
BCE = dict(RMI, with_rmi=False, loss_weight=0.3)
ALL = [CE, MEAN, WEIGHTED, RMI, BCE, [MEAN, RMI, dict(MEAN, loss_weight=0.1)]]
HARD = dict(type='OHEMPixelSampler', thresh=0.3, min_kept=100)
main_losses = pytest.mark.parametrize('loss', [MEAN, RMI, BCE])


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Several tiles per map, the last one shorter."""
    monkeypatch.setitem(execution.TILE_BYTES, 'cpu', 1)
    monkeypatch.setattr(execution, 'MIN_ROWS', 12)


def build(loss=MEAN, sampler=None, scale_loss=None, align_corners=False):
    """Build a head that hands on the maps it is given."""
    common = dict(
        in_channels=8,
        channels=8,
        num_classes=K,
        norm_cfg=BN,
        align_corners=align_corners,
    )
    aux = dict(type='FCNHead', num_convs=1, loss_decode=dict(BCE), **common)
    main = dict(
        type='OCRHead',
        ocr_channels=4,
        loss_decode=loss,
        sampler=sampler,
        **common,
    )
    head = MODELS.build(
        dict(
            type='HierarchicalMSAttentionHead',
            seg_head=[aux, main],
            attn_channels=4,
            loss_scale=scale_loss,
        )
    )
    head.forward_seg_heads = lambda maps, **_: SegHeadOutputs(
        (maps[1], maps[0]), maps[0], maps[2]
    )
    head.scale_attn = torch.nn.Sigmoid()
    return head


def make_maps(size, scales=(0.5, 1.0), dtype=torch.float64, batch=2):
    """Main and auxiliary logits and attention of each scale, at stride 4."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for scale in scales:
        grid = [math.ceil(s / 4) for s in scaled_size(size, scale)]
        for k in (K, K, 1):
            shape = batch, k, *grid
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            found.append(x.to(dtype).requires_grad_())
    return found


def make_samples(size, batch=2, ignored=0.2):
    generator = torch.Generator().manual_seed(4)
    grid = [batch, *(math.ceil(s / 6) for s in size)]
    label = torch.randint(K, grid, generator=generator)
    label[torch.rand(grid, generator=generator) < ignored] = 255
    label[0][label[0] == 3] = 4  # one class is absent
    label = label.repeat_interleave(6, 1).repeat_interleave(6, 2)
    return [
        SegDataSample(gt_sem_seg=PixelData(data=one[None]))
        for one in label[:, : size[0], : size[1]].clone()
    ]


def losses_of(head, maps, size, samples, fast, scales=(0.5, 1.0)):
    head.fast = fast
    inputs = [
        (scale, maps[3 * i : 3 * i + 3]) for i, scale in enumerate(scales)
    ]
    return head.loss(inputs, size, samples)


def run(head, maps, size, samples, fast, scales=(0.5, 1.0)):
    """Losses, and the gradients of their weighted sum."""
    losses = losses_of(head, maps, size, samples, fast, scales)
    # What comes from above differs from loss to loss.
    total = sum(
        (i + 0.5) * value
        for i, (key, value) in enumerate(losses.items())
        if 'loss' in key
    )
    if not total.requires_grad:
        return losses, None
    return losses, torch.autograd.grad(total, maps, allow_unused=True)


def main_loss(losses):
    """The first loss of the last seg head."""
    return losses[next(key for key in losses if 'decode.loss' in key)]


def assert_equal(head, maps, size, samples, scales=(0.5, 1.0), rtol=1e-9):
    """Compare what both ways give, and return the losses."""
    plain, expected = run(head, maps, size, samples, False, scales)
    # Nothing may be made as a whole.
    with mock.patch.object(
        tile_losses, 'make_whole', side_effect=AssertionError
    ):
        found, grads = run(head, maps, size, samples, True, scales)
    assert list(found) == list(plain)
    for key, value in plain.items():
        assert found[key].shape == value.shape, key
        assert found[key].dtype == value.dtype, key
        torch.testing.assert_close(
            found[key], value, rtol=max(rtol, 1e-6), atol=1e-9
        )
    for grad, other in zip(grads, expected):
        if other is None:
            assert grad is None
            continue
        assert grad.dtype == other.dtype
        error = (grad - other).abs().max()
        assert error <= rtol * other.abs().max().clamp_min(1e-12)
    return found


@pytest.mark.parametrize(
    ('loss', 'size'),
    [*zip(ALL, [(64, 96), SIZE, (33, 47)] * 2), (RMI, SIZE)],
)
def test_equals_the_plain_way(loss, size):
    head = build(loss, scale_loss=[dict(BCE), dict(MEAN)])
    samples = make_samples(size)
    found = assert_equal(head, make_maps(size), size, samples)
    assert {'aux.loss_bce', 'aux.acc_seg', 'decode.acc_seg'} < found.keys()
    assert {'scale_0.5.loss_bce', 'scale_1.loss_ce'} < found.keys()
    maps = make_maps(size, dtype=torch.float32)
    assert_equal(head, maps, size, samples, rtol=2e-5)
    # No pixel has a label.
    samples = make_samples(size, ignored=2)
    assert_equal(build(loss), make_maps(size), size, samples)


@pytest.mark.parametrize(
    ('scales', 'align_corners'),
    [
        ((0.5, 1.0, 2.0), True),
        ((0.75, 1.5), False),
        ((0.3, 0.7, 1.0), True),
        ((1.0, 2.0), False),
    ],
)
def test_other_scales(scales, align_corners):
    size = (45, 61)
    head = build(RMI, scale_loss=MEAN, align_corners=align_corners)
    samples = make_samples(size)
    assert_equal(head, make_maps(size, scales), size, samples, scales)


@pytest.mark.parametrize('loss', ALL[1:4])
def test_autocast_and_half_precision_maps(loss):
    """The loss is that of the same values in float32."""
    head = build(loss)
    maps = make_maps(SIZE, dtype=torch.bfloat16)
    head.scale_attn = torch.nn.Identity()
    for attn in maps[2::3]:
        attn.data.sigmoid_()
    wide = [x.detach().float().requires_grad_() for x in maps]
    samples = make_samples(SIZE)
    expected, expected_grads = run(head, wide, SIZE, samples, True)
    with torch.autocast('cpu', torch.bfloat16):
        found, grads = run(head, maps, SIZE, samples, True)
    with torch.no_grad():
        without, _ = run(head, wide, SIZE, samples, True)
    for key, value in expected.items():
        torch.testing.assert_close(without[key], value.detach())
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value), key
    for grad, other in zip(grads, expected_grads):
        if other is not None:
            assert grad.dtype == torch.bfloat16
            error = (grad.float() - other).abs().max()
            assert error <= 2**-7 * other.abs().max()  # that of bfloat16


@main_losses
def test_gradient_of_the_attention_alone(loss):
    """As when all but the attention is frozen."""
    size = (45, 61)
    maps = make_maps(size)
    for x in (*maps[::3], *maps[1::3]):
        x.requires_grad_(False)
    head, samples = build(loss), make_samples(size)
    grads = []
    for fast in (False, True):
        total = main_loss(losses_of(head, maps, size, samples, fast))
        grads.append(torch.autograd.grad(total, maps[2])[0])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert grads[0].abs().max() > 0


def test_tiles_do_not_matter(monkeypatch):
    size = (67, 99)
    head, samples = build(RMI, scale_loss=MEAN), make_samples(size)
    maps = make_maps(size)
    _, expected = run(head, maps, size, samples, True)
    for rows in (4, 20, 1000):
        monkeypatch.setattr(execution, 'MIN_ROWS', rows)
        _, grads = run(head, maps, size, samples, True)
        for grad, other in zip(grads, expected):
            torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)


@main_losses
def test_not_finite_or_differentiated_twice(loss):
    size = (33, 47)
    head, samples = build(loss), make_samples(size)
    maps = make_maps(size)
    value = main_loss(losses_of(head, maps, size, samples, True))
    with pytest.raises(RuntimeError, match='without create_graph=True'):
        torch.autograd.grad(value, maps[0], create_graph=True)
    for number in (math.nan, math.inf):
        maps[3].data[1, 2, 5, 5] = number
        losses, grads = run(head, maps, size, samples, True)
        assert not main_loss(losses).isfinite()
        assert grads[3].isnan().any()


# ------------------------------------------- where tiles are not possible


@pytest.fixture
def said(monkeypatch):
    """What the log is told about losses."""
    found = []
    tile_losses._log_once.cache_clear()
    monkeypatch.setattr(
        tile_losses, 'print_log', lambda text, **_: found.append(text)
    )
    yield found
    tile_losses._log_once.cache_clear()


PLAIN = [
    (dict(type='DiceLoss'), None, 0.2, 'DiceLoss'),
    (dict(CE, use_sigmoid=True), None, 0.2, 'CrossEntropyLoss with a sigmoid'),
    (dict(CE, reduction='sum'), None, 0.2, 'a reduction other than mean'),
    (dict(CE, class_weight=WEIGHTS), None, 0, 'with class_weight'),
    (MEAN, HARD, 0.2, 'the sampler OHEMPixelSampler'),
]


@pytest.mark.parametrize(('loss', 'sampler', 'ignored', 'reason'), PLAIN)
def test_other_losses_take_the_plain_way_and_say_so_once(
    loss, sampler, ignored, reason, said
):
    size = (33, 47)
    head, maps = build(loss, sampler), make_maps(size, dtype=torch.float32)
    samples = make_samples(size, ignored=ignored)
    run(head, maps, size, samples, True)
    found, grads = run(head, maps, size, samples, True)
    (text,) = said
    assert reason in text
    expected, expected_grads = run(head, maps, size, samples, False)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    for grad, other in zip(grads, expected_grads):
        if other is not None:
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-8)


def test_losses_and_hooks_of_others_are_called():
    size, calls = (33, 47), []
    head, samples = build(), make_samples(size)
    main = head.seg_heads[-1]
    main.loss_decode.register_forward_hook(lambda *_: calls.append('hook'))
    run(head, make_maps(size), size, samples, True)
    assert calls == ['hook']
    main.loss_by_feat = lambda x, _: dict(loss_own=x.mean())
    found, _ = run(head, make_maps(size), size, samples, True)
    assert {'decode.loss_own', 'aux.loss_bce'} < found.keys()


def test_a_label_that_is_no_class_gives_the_loss_s_own_error():
    size = (33, 47)
    samples = make_samples(size)
    samples[1].gt_sem_seg.data[0, 8, 9] = 7
    with pytest.raises(ValueError, match=r'found labels \[7\]'):
        run(build(RMI), make_maps(size), size, samples, True)
    head = build()
    head.seg_heads[0].loss_decode = MODELS.build(CE)
    with pytest.raises(IndexError, match='Target 7 is out of bounds'):
        run(head, make_maps(size), size, samples, True)


def one_scale(logits, size):
    return FusedLogits((1.0,), (logits,), (None,), size, False)


@pytest.mark.parametrize('cfg', [RMI, MEAN])
def test_under_torch_compile(cfg):
    """Its graphs would leave out what tiles add to a sum."""
    (logits, *_), module = make_maps((33, 47), (1.0,)), MODELS.build(cfg)
    label = torch.stack([s.gt_sem_seg.data[0] for s in make_samples((33, 47))])

    def loss(x):
        return tile_losses.loss_of_logits(
            module, one_scale(x, (33, 47)), label, 255
        )

    expected = loss(logits)
    found = torch.compile(loss, backend='aot_eager')(logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (expected,) = torch.autograd.grad(expected, logits)
    (found,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_devices_without_float64_get_whole_logits():
    module = MODELS.build(BCE)
    logits = one_scale(make_maps((33, 47), (1.0,))[0], (33, 47))
    assert tile_losses._why_not(module, logits) is None
    logits = SimpleNamespace(device=torch.device('mps'))
    assert 'type mps' in tile_losses._why_not(module, logits)


def test_accuracy_of_a_single_channel():
    label = torch.randint(2, (1, 8, 9)) * 255
    found = Accuracy(label, 255)
    logits = torch.randn(1, 1, 8, 9)
    for rows in (slice(0, 3), slice(3, 8)):
        found.add(logits[:, :, rows], rows)
    expected = accuracy(logits, label, ignore_index=255)
    torch.testing.assert_close(found.percent(), expected)
    assert found.percent() == 100


@pytest.mark.needs_torch('freed_storages')
def test_memory(monkeypatch):
    """Of the authors' losses, at 512 x 1024 and with 19 classes."""
    monkeypatch.undo()
    monkeypatch.setitem(globals(), 'K', 19)
    size = (512, 1024)
    head = build(RMI, scale_loss=dict(BCE, loss_weight=0.05))
    maps, samples = (
        make_maps(size, dtype=torch.float32, batch=1),
        make_samples(size, 1),
    )
    tiles, plain = (
        peak_live_bytes(lambda f=fast: run(head, maps, size, samples, f))
        for fast in (True, False)
    )
    assert tiles * 6 <= plain
