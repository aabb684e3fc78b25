"""Where losses are not computed in rows, and what they need if they are."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS

from hmsa_mmseg.models.fast import row_losses, row_losses_walk
from hmsa_mmseg.models.fast.row_losses_accuracy import RowAccuracy
from hmsa_mmseg.models.losses.rmi_pooling import Band

# A module beside the tests; the tools are scripts, which find theirs so.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools'))

from benchmarking.literal_rmi import literal_rmi_loss
from benchmarking.measure import peak_live_bytes
from row_loss_cases import (
    BCE,
    CE,
    MEAN,
    RMI,
    WEIGHTS,
    assert_equal,
    build,
    make_maps,
    make_samples,
    run,
)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(row_losses, '_said', set())


def messages(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if 'logits of full size' in record.getMessage()
    ]


PLAIN = [
    (dict(type='DiceLoss'), None, 'DiceLoss'),
    (dict(CE, use_sigmoid=True), None, 'CrossEntropyLoss with a sigmoid'),
    (dict(CE, reduction='sum'), None, "reduction='sum'"),
    ([MEAN, dict(type='LovaszLoss', per_image=True)], None, 'LovaszLoss'),
]


@pytest.mark.parametrize(('loss', 'sampler', 'reason'), PLAIN)
def test_other_losses_take_the_plain_way_and_say_so_once(
    loss, sampler, reason, caplog
):
    size = (33, 47)
    head, maps = build(loss, sampler), make_maps(size, dtype=torch.float32)
    samples = make_samples(size)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING):
            found, grads = run(head, maps, size, samples, True)
            said = messages(caplog)
            run(head, maps, size, samples, True)
            assert messages(caplog) == said
    finally:
        logger.removeHandler(caplog.handler)
    assert len(said) == 1
    assert reason in said[0]
    expected, expected_grads = run(head, maps, size, samples, False)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    for grad, other in zip(grads, expected_grads):
        if other is not None:
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-8)


def test_what_a_user_has_changed_takes_the_plain_way():
    size, samples = (33, 47), make_samples((33, 47))
    head = build()
    calls = []
    main = head.seg_heads[-1]
    main.loss_decode.register_forward_hook(lambda *_: calls.append('hook'))
    run(head, make_maps(size), size, samples, True)
    assert calls == ['hook']
    head = build()
    main = head.seg_heads[-1]
    main.loss_by_feat = lambda logits, _: dict(loss_own=logits.mean())
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


def test_class_weights_and_ignored_pixels_fail_as_in_mmseg():
    size = (33, 47)
    head = build(dict(CE, class_weight=WEIGHTS))
    maps = make_maps(size)
    with pytest.raises(IndexError, match='out of bounds'):
        run(head, maps, size, make_samples(size), True)
    assert_equal(head, maps, size, make_samples(size, ignored=0))


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


def test_under_torch_compile():
    """Its graphs would leave out what tiles add to a sum."""
    (logits, *_), module = make_maps((33, 47), (1.0,)), MODELS.build(BCE)
    label = torch.stack([s.gt_sem_seg.data[0] for s in make_samples((33, 47))])

    def loss(x):
        source = row_losses_walk.RowLogits(
            (1.0,), (x,), (None,), (33, 47), False
        )
        return row_losses.loss_of_logits(module, source, label, 255)

    expected = loss(logits)
    found = torch.compile(loss, backend='aot_eager')(logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (expected,) = torch.autograd.grad(expected, logits)
    (found,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_devices_without_float64_get_whole_logits():
    maps = make_maps((33, 47), (1.0,))
    source = row_losses_walk.RowLogits(
        (1.0,), (maps[0],), (None,), (33, 47), False
    )
    module = MODELS.build(BCE)
    assert row_losses._why_no_loss(module, source) is None
    logits = SimpleNamespace(device=torch.device('mps'))
    source = source._replace(logits=(logits,))
    assert 'type mps' in row_losses._why_no_loss(module, source)


def test_accuracy_of_a_single_channel():
    label = torch.randint(2, (1, 8, 9)) * 255
    found = RowAccuracy(label, 255)
    logits = torch.randn(1, 8, 9)
    found(0, Band(slice(0, 8), None, None, None), logits)
    expected = accuracy(logits[None], label, ignore_index=255)
    torch.testing.assert_close(found.percent(), expected)
    assert found.percent() == 100


def test_memory_of_the_authors_losses():
    """At least 17 times less than that of the formulas, written down."""
    size, num_classes = (512, 1024), 19
    label = torch.randint(num_classes, (1, 32, 64))
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    rmi = dict(type='RMILoss', num_classes=num_classes)
    aux = MODELS.build(dict(rmi, with_rmi=False, loss_weight=0.4))
    scale = MODELS.build(dict(rmi, with_rmi=False, loss_weight=0.05))
    main = MODELS.build(rmi)

    def leaves(device):
        grids = [(64, 128), (128, 256)]
        return [
            torch.randn(1, k, *grid, device=device).requires_grad_()
            for grid in grids
            for k in (num_classes, num_classes, 1)
        ]

    def in_rows(p_lo, x_lo, attn, p_hi, x_hi, _):
        def loss(module, scales, logits, attns):
            return row_losses.loss_of_logits(
                module,
                row_losses_walk.RowLogits(scales, logits, attns, size, False),
                label,
                255,
            )

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
    found = peak_live_bytes(lambda: in_rows(*leaves('cpu')).backward())
    assert found * 17 <= expected
