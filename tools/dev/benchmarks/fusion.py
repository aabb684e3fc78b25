"""Suite `fusion`: from logits and attention of each scale to classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from oracles.literal_network import ScaleMaps, blend_scales, upsample
from torch import Tensor

from hmsa_mmseg.models.scale_fusion import fuse_scales, scaled_size
from hmsa_mmseg.models.tiled.decisions import decide
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits, LogitRows

from .cases import (
    Case,
    Options,
    logits_difference,
    must_be_equal,
    wrong_classes,
)
from .page import size_text

TITLE = 'Fusion of scales'
NOTE = """\
From logits and attention at stride 4 of scales 0.5, 1 and 2 to the class of
every pixel, or to fused logits, where that is said. Literal: with the
auxiliary maps, which the authors blend too. Difference: of the largest logit;
classes may differ where logits tie."""
LIMITS = []
SCALES = (2.0, 1.0, 0.5)
# Of the largest logit; float32 rounds in another order.
TOLERANCE = 1e-5
# Classes, (H, W).
SIZES = {
    'full': [(19, (1024, 2048)), (65, (512, 1024))],
    'small': [(19, (64, 128))],
}


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared."""
    return {
        f'{num_classes} classes, {size_text(size)}': partial(
            _case, num_classes, size, options.device
        )
        for num_classes, size in SIZES[options.size]
    }


# What the heads give: a scale, and logits, auxiliary logits and attention at
# it, (1, K or 1, h, w).
HeadOutputs = tuple[float, Tensor, Tensor, Tensor]


def make_outputs(
    num_classes: int, size: tuple[int, int], device: str
) -> list[HeadOutputs]:
    """Random logits and attention at stride 4, highest scale first."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, size: list[int]) -> Tensor:
        coarse = torch.randn(
            1, channels, *(-(-side // 8) for side in size), generator=generator
        )
        return upsample(3 * coarse, size).to(device)

    outputs = []
    for scale in SCALES:
        small = [-(-side // 4) for side in scaled_size(size, scale)]
        main, aux = (noise(num_classes, small) for _ in range(2))
        outputs.append((scale, main, aux, noise(1, small).sigmoid()))
    return outputs


def literal_fusion(
    outputs: list[HeadOutputs], size: tuple[int, int]
) -> Tensor:
    """Blend as the authors do: all maps at the full size of their scale.

    What their network returns beside the result stays to the end.
    """
    kept = []

    def enlarged() -> Iterator[tuple[float, ScaleMaps]]:
        for scale, *maps in outputs:
            full = scaled_size(size, scale)
            maps = ScaleMaps(*(upsample(x, full) for x in maps))
            kept.append((maps.main, maps.attn))
            yield scale, maps

    return blend_scales(enlarged())[0]


def classes_of_rows(rows: LogitRows) -> Tensor:
    """Decide in tiles of rows."""
    return decide(rows, torch.uint8, None).classes


def _case(num_classes: int, size: tuple[int, int], device: str) -> Case:
    outputs = make_outputs(num_classes, size, device)
    maps = [(scale, main, attn) for scale, main, _, attn in outputs]

    def rows() -> LogitRows:
        return FusedLogits(*zip(*maps), size, False)

    def check() -> dict[str, float]:
        expected = literal_fusion(outputs, size)
        found = {
            'plain': logits_difference(fuse_scales(maps, size), expected),
            'row tiles, logits': logits_difference(rows().whole(), expected),
        }
        wrong = wrong_classes(classes_of_rows(rows()), expected, TOLERANCE)
        must_be_equal('fusion', {**found, 'wrong classes': wrong}, TOLERANCE)
        return found

    ways = {
        'literal': lambda: literal_fusion(outputs, size).argmax(dim=1),
        'plain': lambda: fuse_scales(maps, size).argmax(dim=1),
        'row tiles, logits': lambda: rows().whole(),
        'row tiles, classes': lambda: classes_of_rows(rows()),
    }
    return Case(ways, is_held=True, check=check)
