"""Decode head that averages the scales.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: head
    output size at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from mmseg.registry import MODELS
from torch import Tensor

from .base_multi_scale_head import BaseMultiScaleHead
from .combining import at_input_size


@MODELS.register_module()
class MultiScaleAverageHead(BaseMultiScaleHead):
    """Any mmseg decode head, with the mean of the scales' logits.

    The baseline of `Hierarchical Multi-Scale Attention
    <https://arxiv.org/abs/2005.10821>`_, Table 1: the head is trained at
    ``scales=(1.0,)``, as in an :class:`EncoderDecoder`, whose checkpoints it
    takes, and tested at several. The mean is one of logits, as the authors'
    (NVIDIA/semantic-segmentation, utils/trnval_utils.py,
    ``eval_minibatch``), while mmseg's ``--tta`` averages probabilities.
    Trained at several scales, the losses are those of the mean.

    Args:
        seg_head (dict | list[dict]): Config of a decode head of mmseg that
            ends in a classifier, or of a cascade of them.
        **kwargs: ``loss_scale``, ``num_classes``, ``reinit_classifier``,
            ``fast`` and ``init_cfg`` of :class:`BaseMultiScaleHead`.
    """

    def combination(
        self,
        scales: Sequence[float],
        attended: Sequence[None],
        input_size: Sequence[int],
        as_rows: bool,
    ) -> Callable[[Sequence[Tensor]], Tensor]:
        """Average the scales, one after the other."""

        def combine(maps: Sequence[Tensor]) -> Tensor:
            at_size = (
                at_input_size(scale, x, input_size, self.align_corners)
                for scale, x in zip(scales, maps)
            )
            total = reduce(torch.add, at_size)
            return total if len(scales) == 1 else total / len(scales)

        return combine
