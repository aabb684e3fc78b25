"""Heads, maps and labels for the tests of losses in tiles."""

import math
from unittest import mock

import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.models.decode_heads import tile_losses
from hmsa_mmseg.models.decode_heads.seg_heads import SegHeadOutputs
from hmsa_mmseg.models.scale_fusion import scaled_size

K = 5
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0]
CE = dict(type='CrossEntropyLoss')
MEAN = dict(CE, avg_non_ignore=True, loss_weight=0.4)
WEIGHTED = dict(type='ClassWeightedCrossEntropyLoss', class_weight=WEIGHTS)
RMI = dict(type='RMILoss')
BCE = dict(RMI, with_rmi=False, loss_weight=0.3)


def build(loss=MEAN, sampler=None, scale_loss=None, align_corners=False):
    """Build a head that hands on the maps it is given."""
    common = dict(
        in_channels=8,
        channels=8,
        num_classes=K,
        norm_cfg=dict(type='BN'),
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


def make_samples(size, batch=2, ignored=0.2, absent=None):
    generator = torch.Generator().manual_seed(4)
    grid = [batch, *(math.ceil(s / 6) for s in size)]
    label = torch.randint(K, grid, generator=generator)
    label[torch.rand(grid, generator=generator) < ignored] = 255
    if absent is not None:
        label[0][label[0] == absent] = (absent + 1) % K
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
