"""Suite `loss`: from the heads' outputs in training to their gradients.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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

from .measure import machine, peak_live_bytes
from .networks import CITYSCAPES, labels, load_config, samples
from .options import Options, progress
from .reference import logits_difference, must_be_equal
from .report import Figure, ratio_text, size_text
from .timing import time_variants

TITLE = 'Losses in training'
SCALES = (0.5, 1.0)
LOSS_TOLERANCE, GRAD_TOLERANCE = 1e-5, 1e-4


class Case(NamedTuple):
    """A workload: one image, of whose classes some are there."""

    num_classes: int
    num_present: int
    size: tuple[int, int]


CASES = {
    'full': [Case(19, 12, (512, 1024)), Case(65, 24, (256, 512))],
    'small': [Case(19, 12, (64, 128))],
}


def make_leaves(case: Case, label: Tensor, device: str) -> list[Tensor]:
    """Main and auxiliary logits and attention logits, lowest scale first.

    Returns:
        list[Tensor]: (1, K, h, w), (1, K, h, w) and (1, 1, h, w) of each
        scale, at stride 4, each with a gradient; the logits right in part.
    """
    generator = torch.Generator().manual_seed(0)
    leaves = []
    for scale in SCALES:
        size = [-(-side // 4) for side in scaled_size(case.size, scale)]
        near = nn.functional.interpolate(label[:, None].float(), size)
        right = near.long() == torch.arange(case.num_classes)[:, None, None]
        for channels in (case.num_classes, case.num_classes, 1):
            leaf = torch.randn(1, channels, *size, generator=generator)
            if channels > 1:
                leaf += 3 * right
            leaves.append(leaf.to(device).requires_grad_())
    return leaves


def literal_loss(leaves: list[Tensor], label: Tensor) -> Tensor:
    """The authors' way: all maps at full size, see literal_network.py."""
    size = label.shape[1:]

    def maps(main: Tensor, aux: Tensor, attn: Tensor) -> ScaleMaps:
        full = [int(main.shape[2] * 4), int(main.shape[3] * 4)]
        return ScaleMaps(
            upsample(main, full),
            upsample(aux, full),
            upsample(attn.sigmoid(), full),
        )

    lo, hi = maps(*leaves[:3]), maps(*leaves[3:])
    blended = blend_lower(lo, hi.main, hi.aux)
    singles = [scale_as(lo.main, size), hi.main]
    return full_loss(*blended[:2], singles, label)


def head_loss(
    num_classes: int, fast: bool
) -> Callable[[list[Tensor], Tensor], Tensor]:
    """Build the head of the recipe, whose seg heads give what they are given.

    Args:
        num_classes (int): K.
        fast (bool): Whether it may use its fast paths.

    Returns:
        Callable: Loss of leaves, as :func:`make_leaves` gives them, and
        labels.
    """
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


def step(loss: Callable, leaves: list[Tensor], label: Tensor) -> Tensor:
    """One forward and backward."""
    for leaf in leaves:
        leaf.grad = None
    value = loss(leaves, label)
    value.backward()
    return value.detach()


def check(
    losses: dict[str, Callable], leaves: list[Tensor], label: Tensor
) -> dict[str, float]:
    """Compare losses and gradients with the first; stops if they differ."""
    values, grads = {}, {}
    for name, loss in losses.items():
        values[name] = step(loss, leaves, label)
        # That of the highest scale's attention is none.
        grads[name] = torch.cat([leaf.grad.flatten() for leaf in leaves[:-1]])
    first, *others = losses
    found = {}
    for name in others:
        loss = logits_difference(values[name], values[first])
        grad = logits_difference(grads[name], grads[first])
        found[f'{name}, loss'], found[f'{name}, gradient'] = loss, grad
        must_be_equal('loss', {name: loss}, LOSS_TOLERANCE)
        must_be_equal('loss', {name: grad}, GRAD_TOLERANCE)
    return found


def _measure(case: Case, options: Options) -> dict[str, Any]:
    """Check one workload, then measure it."""
    progress(f'loss: {case}')
    label = labels(1, case.size, case.num_classes, case.num_present)
    leaves = make_leaves(case, label, options.device)
    label = label.to(options.device)
    losses = {
        'literal': literal_loss,
        'plain': head_loss(case.num_classes, fast=False),
        'fast': head_loss(case.num_classes, fast=True),
    }
    difference = check(losses, leaves, label)
    steps = {
        name: lambda loss=loss: step(loss, leaves, label)
        for name, loss in losses.items()
    }
    peaks = {}
    for name, function in steps.items():
        for leaf in leaves:
            leaf.grad = None
        peaks[name] = peak_live_bytes(function)
    return dict(
        **case._asdict(),
        device=options.device,
        difference=difference,
        peak_bytes=peaks,
        times=time_variants(steps, options.rounds),
    )


def run(options: Options) -> dict[str, Any]:
    """Check, then measure.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    results = [_measure(case, options) for case in CASES[options.size]]
    return dict(machine=machine(), rounds=options.rounds, results=results)


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    rows = []
    for row in results['results']:
        peak, time = row['peak_bytes'], row['times']['fast']
        rows.append(
            Figure(
                f'loss path memory, {size_text(row["size"])}, '
                f'{row["num_classes"]} classes',
                'literal',
                peak['literal'] / peak['fast'],
                target=17 if row['num_classes'] == 19 else None,
                at_least=True,
                detail=f'{peak["literal"] / 1e6:.0f} and '
                f'{peak["fast"] / 1e6:.0f} MB; time '
                + ratio_text(time['wall_ratio']),
            )
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        "All losses of the authors' Cityscapes recipe (RMI on the blended "
        'logits, binary cross-entropy on the blended auxiliary logits and on '
        'both scales), forward and backward of one image, from logits and '
        'attention of scales 0.5 and 1.0 at stride 4 to their gradients, in '
        'float32. Literal: every map at full size, in the order of '
        '[literal_network.py](../../tests/oracles/literal_network.py). '
        'Before that, all were checked to give the same loss (relative) and '
        'gradients (of the largest value). Times: median of '
        f'{results["rounds"]} interleaved rounds, ratios with range. Memory: '
        'the most that tensors hold at once, gradients included.',
        '',
        '| classes (present), size | | difference: loss, gradient | ms '
        '| over literal | CPU time | MB |',
        '| :-- | :-- | :-- | --: | --: | --: | --: |',
    ]
    for row in results['results']:
        for name, time in row['times'].items():
            differences = ', '.join(
                f'{value:.0e}'
                for key, value in row['difference'].items()
                if key.startswith(f'{name},')
            )
            lines.append(
                f'| {row["num_classes"]} ({row["num_present"]}), '
                f'{size_text(row["size"])} | {name} | {differences} '
                f'| {time["wall_ms"]:.0f} | {ratio_text(time["wall_ratio"])} '
                f'| {ratio_text(time["cpu_ratio"])} '
                f'| {row["peak_bytes"][name] / 1e6:.0f} |'
            )
    return '\n'.join(lines)
