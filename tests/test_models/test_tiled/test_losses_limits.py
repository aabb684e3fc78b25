"""Where losses are not computed in tiles, and what they need if they are."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS

from hmsa_mmseg.analysis.live_bytes import peak_live_bytes
from hmsa_mmseg.models.decode_heads import tile_losses
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits
from hmsa_mmseg.models.tiled.loss_walk import Accuracy

# A module beside the tests; the tools are scripts, which find theirs so.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools'))

from benchmarking.literal_rmi import literal_rmi_loss
from loss_cases import (
    BCE,
    CE,
    MEAN,
    RMI,
    WEIGHTS,
    build,
    make_maps,
    make_samples,
    run,
)


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


HARD = dict(type='OHEMPixelSampler', thresh=0.3, min_kept=100)
PLAIN = [
    (dict(type='DiceLoss'), None, 0.2, 'DiceLoss'),
    (dict(CE, use_sigmoid=True), None, 0.2, 'CrossEntropyLoss with a sigmoid'),
    (dict(CE, reduction='sum'), None, 0.2, 'a reduction other than mean'),
    (dict(CE, class_weight=WEIGHTS), None, 0, 'with class_weight'),
    ([MEAN, dict(type='LovaszLoss', per_image=True)], None, 0.2, 'LovaszLoss'),
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


def test_a_loss_of_its_own_is_called():
    size = (33, 47)
    head = build()
    head.seg_heads[-1].loss_by_feat = lambda x, _: dict(loss_own=x.mean())
    found, _ = run(head, make_maps(size), size, make_samples(size), True)
    assert {'decode.loss_own', 'aux.loss_bce'} < found.keys()


def test_hooks_of_losses_are_called():
    size, calls = (33, 47), []
    head = build()
    main = head.seg_heads[-1]
    main.loss_decode.register_forward_hook(lambda *_: calls.append('hook'))
    run(head, make_maps(size), size, make_samples(size), True)
    assert calls == ['hook']


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


@pytest.mark.needs_torch('solving_on_meta')
def test_runs_without_values():
    """What memory is counted with: no value is looked at."""
    size = (64, 96)
    head = build([RMI, MEAN], scale_loss=BCE)
    maps = [
        torch.empty_like(x, device='meta').requires_grad_()
        for x in make_maps(size)
    ]
    samples = make_samples(size)
    for sample in samples:
        sample.gt_sem_seg.data = sample.gt_sem_seg.data.to('meta')
    losses, grads = run(head, maps, size, samples, True)
    assert losses['decode.loss_rmi'].device.type == 'meta'
    assert grads[0].shape == maps[0].shape


def one_scale(logits, size):
    return FusedLogits((1.0,), (logits,), (None,), size, False)


@pytest.mark.parametrize('cfg', [RMI, BCE, MEAN])
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
def test_memory_of_the_authors_losses():
    """At least 17 times less than that of the formulas, written down."""
    size, num_classes = (512, 1024), 19
    label = torch.randint(num_classes, (1, 32, 64))
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    main = MODELS.build(RMI)
    aux = MODELS.build(dict(BCE, loss_weight=0.4))
    scale = MODELS.build(dict(BCE, loss_weight=0.05))

    def leaves(device):
        grids = [(64, 128), (128, 256)]
        return [
            torch.randn(1, k, *grid, device=device).requires_grad_()
            for grid in grids
            for k in (num_classes, num_classes, 1)
        ]

    def in_tiles(p_lo, x_lo, attn, p_hi, x_hi, _):
        def loss(module, scales, logits, attns):
            logits = FusedLogits(scales, logits, attns, size, False)
            return tile_losses.loss_of_logits(module, logits, label, 255)

        both, attn = (1.0, 0.5), (None, attn.sigmoid())
        return (
            loss(main, both, (p_hi, p_lo), attn)
            + loss(aux, both, (x_hi, x_lo), attn)
            + loss(scale, (1.0,), (p_hi,), (None,))
            + loss(scale, (0.5,), (p_lo,), (None,))
        )

    def literal(p_lo, x_lo, attn, p_hi, x_hi, _):
        def up(x, to=size):
            return F.interpolate(x, to, mode='bilinear')

        # All maps at full size first, as in the authors' network.
        p_lo, x_lo, attn = (
            up(x, (256, 512)) for x in (p_lo, x_lo, attn.sigmoid())
        )
        p_hi, x_hi = up(p_hi), up(x_hi)
        fused = up(attn * p_lo) + (1 - up(attn)) * p_hi
        fused_aux = up(attn * x_lo) + (1 - up(attn)) * x_hi
        target = label.to(p_lo.device)
        return (
            literal_rmi_loss(fused, target)
            + 0.4 * literal_rmi_loss(fused_aux, target, with_rmi=False)
            + 0.05 * literal_rmi_loss(p_hi, target, with_rmi=False)
            + 0.05 * literal_rmi_loss(up(p_lo), target, with_rmi=False)
        )

    expected = peak_live_bytes(lambda: literal(*leaves('meta')).backward())
    found = peak_live_bytes(lambda: in_tiles(*leaves('cpu')).backward())
    assert found * 17 <= expected
