"""Suite `loss`: from the heads' outputs in training to their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from mmseg.registry import MODELS
from oracles.literal_network import (
    ScaleMaps,
    blend_lower,
    full_loss,
    scale_as,
    upsample,
)
from torch import Tensor, nn

from hmsa_mmseg.models.decode_heads.seg_heads import SegHeadOutputs
from hmsa_mmseg.models.scale_fusion import scaled_size

from .cases import Case, Options, logits_difference, must_be_equal
from .networks import CITYSCAPES, labels, load_config, samples
from .page import Limit, size_text

TITLE = 'Losses in training'
NOTE = """\
All losses of the authors' Cityscapes recipe (RMI on the blended logits,
binary cross-entropy on the blended auxiliary logits and on both scales),
forward and backward of one image in float32, from logits and attention of
scales 0.5 and 1.0 at stride 4 to their gradients, which count as memory.
Difference: of the loss or of the largest gradient, whichever is larger."""
LIMITS = [
    Limit(
        'memory of the losses, times less',
        '19 classes',
        'fast',
        'live_gb',
        17,
        'literal',
        at_least=True,
    )
]
SCALES = (0.5, 1.0)
LOSS_TOLERANCE, GRAD_TOLERANCE = 1e-5, 1e-4
# Classes, those that are there, (H, W).
SIZES = {
    'full': [(19, 12, (512, 1024)), (65, 24, (256, 512))],
    'small': [(19, 12, (64, 128))],
}


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared."""
    return {
        f'{num_classes} classes ({present} there), {size_text(size)}': partial(
            _case, num_classes, present, size, options.device
        )
        for num_classes, present, size in SIZES[options.size]
    }


def make_leaves(num_classes: int, label: Tensor, device: str) -> list[Tensor]:
    """Main and auxiliary logits and attention logits, lowest scale first."""
    generator = torch.Generator().manual_seed(0)
    leaves = []
    for scale in SCALES:
        size = [-(-s // 4) for s in scaled_size(label.shape[1:], scale)]
        near = nn.functional.interpolate(label[:, None].float(), size)
        right = near.long() == torch.arange(num_classes)[:, None, None]
        for channels in (num_classes, num_classes, 1):
            leaf = torch.randn(1, channels, *size, generator=generator)
            if channels > 1:
                leaf += 3 * right
            leaves.append(leaf.to(device).requires_grad_())
    return leaves


def literal_loss(leaves: list[Tensor], label: Tensor) -> Tensor:
    """The authors' way: all maps at full size, see literal_network.py."""
    size = label.shape[1:]

    def maps(main: Tensor, aux: Tensor, attn: Tensor) -> ScaleMaps:
        full = [4 * side for side in main.shape[2:]]
        return ScaleMaps(
            *(upsample(x, full) for x in (main, aux, attn.sigmoid()))
        )

    lo, hi = maps(*leaves[:3]), maps(*leaves[3:])
    blended = blend_lower(lo, hi.main, hi.aux)
    singles = [scale_as(lo.main, size), hi.main]
    return full_loss(*blended[:2], singles, label)


def head_loss(
    num_classes: int, fast: bool
) -> Callable[[list[Tensor], Tensor], Tensor]:
    """Build the recipe's head, whose seg heads give what they are given."""
    cfg = load_config(CITYSCAPES).model.decode_head.to_dict()
    for head in cfg['seg_head']:
        head['norm_cfg'] = dict(type='BN')
    head = MODELS.build(dict(cfg, num_classes=num_classes)).train()
    head.fast = fast
    head.forward_seg_heads = lambda feats, **_: feats
    head.scale_attn = nn.Sigmoid()

    def loss(leaves: list[Tensor], label: Tensor) -> Tensor:
        inputs = [
            (scale, SegHeadOutputs((aux, main), main, attn))
            for scale, main, aux, attn in zip(
                SCALES, leaves[::3], leaves[1::3], leaves[2::3]
            )
        ]
        found = head.loss(inputs, label.shape[1:], samples(label))
        return sum(v for key, v in found.items() if 'loss' in key)

    return loss


def _case(
    num_classes: int, present: int, size: tuple[int, int], device: str
) -> Case:
    label = labels(1, size, num_classes, present)
    leaves = make_leaves(num_classes, label, device)
    label = label.to(device)
    losses = {
        'literal': literal_loss,
        'plain': head_loss(num_classes, fast=False),
        'fast': head_loss(num_classes, fast=True),
    }

    def step(loss: Callable) -> tuple[Tensor, list[Tensor]]:
        value = loss(leaves, label)
        value.backward()
        # That of the highest scale's attention is none.
        gradients = [leaf.grad for leaf in leaves[:-1]]
        for leaf in leaves:
            leaf.grad = None
        return value.detach(), gradients

    def check() -> dict[str, float]:
        found = {}
        for way, loss in losses.items():
            value, gradients = step(loss)
            gradients = torch.cat([one.flatten() for one in gradients])
            if way == 'literal':
                expected, others = value, gradients
                continue
            one = logits_difference(value, expected)
            must_be_equal('loss', {f'{way}, loss': one}, LOSS_TOLERANCE)
            other = logits_difference(gradients, others)
            must_be_equal('loss', {f'{way}, gradient': other}, GRAD_TOLERANCE)
            found[way] = max(one, other)
        return found

    ways = {way: partial(step, loss) for way, loss in losses.items()}
    return Case(ways, is_held=True, check=check)
