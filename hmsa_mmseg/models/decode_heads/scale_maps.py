"""What each scale says by itself, and its part in what all say together.

Shape shorthand in this module:
    N: batch, K: output channels (classes), S: scales, A: scales that have an
    attention of their own, H, W: size of the input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ScaleMaps(NamedTuple):
    """The prediction of all scales and of each; scales lowest first.

    Attributes:
        seg_logits (Tensor): Of all scales combined, (N, K, H, W).
        scale_weights (Tensor): Part of each scale in them, in [0, 1], with
            sum 1 in each pixel, (N, S, H, W).
        scale_attn (Tensor): Attention of each scale but the highest, in
            [0, 1], (N, A, H, W) with A = S - 1; A = 0 for heads that have
            no attention between neighbours.
        scale_logits (Tensor): Of each scale alone, (N, S, K, H, W).
    """

    seg_logits: Tensor
    scale_weights: Tensor
    scale_attn: Tensor
    scale_logits: Tensor

    def stacked(self) -> Tensor:
        """Put all maps into one, (N, K + S + A + S * K, H, W)."""
        return torch.cat([*self[:-1], self.scale_logits.flatten(1, 2)], dim=1)

    @classmethod
    def unstacked(
        cls, stacked: Tensor, num_scales: int, out_channels: int
    ) -> ScaleMaps:
        """Undo :meth:`stacked`, whatever became of H and W; gives views."""
        sizes = [out_channels, num_scales, 0, num_scales * out_channels]
        sizes[2] = stacked.shape[1] - sum(sizes)
        logits, weights, attn, scale_logits = stacked.split(sizes, dim=1)
        scale_logits = scale_logits.unflatten(1, (num_scales, out_channels))
        return cls(logits, weights, attn, scale_logits)


def scale_indicators(maps: list[Tensor]) -> list[Tensor]:
    """Maps that say which scale they are of, to be combined like logits.

    As scales are combined linearly, the combination of indicators is the
    weight of each scale in that of logits. Of maps (N, any, h, w) of S scales
    each gets one of (N, S, h, w), 1 in the channel of its scale, 0 elsewhere.
    """
    indicators = []
    for i, x in enumerate(maps):
        indicator = x.new_zeros(len(x), len(maps), *x.shape[2:])
        indicator[:, i] = 1
        indicators.append(indicator)
    return indicators
