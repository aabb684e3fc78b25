"""Decode head of attention to scale: one softmax over a fixed set of scales.

Shape shorthand in this module:
    N: batch, K: output channels (classes), S: scales, C: channels of the
    classifier's input, H, W: input size, h, w: size of the seg head's
    features at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType
from torch import Tensor

from ..scale_fusion import resize
from .base_multi_scale_head import BaseMultiScaleHead
from .combining import at_input_size
from .hierarchical_ms_attention_head import AttentionBranch


@MODELS.register_module()
class AttentionToScaleHead(BaseMultiScaleHead):
    """Any mmseg decode head, with one joint attention over all scales.

    `Attention to Scale <https://arxiv.org/abs/1511.03339>`_ (Chen et al.
    2016), the "explicit" baseline of `Hierarchical Multi-Scale Attention
    <https://arxiv.org/abs/2005.10821>`_, Table 1. The features of all scales
    are brought to the size of those of the scale nearest to 1.0 and
    concatenated; from them a branch predicts a weight for each scale in each
    pixel, and ``fused = sum_s weight_s * logits_s``. Attention therefore
    knows the scales it was trained with and no others: their number is that
    of ``num_scales``, in training and at test time, and their order is that
    of their size.

    Args:
        seg_head (dict | list[dict]): Config of a decode head of mmseg that
            ends in a classifier, or of a cascade of them; all
            outputs of a cascade are blended with the same weights.
        num_scales (int): Number of scales, 2 or more. Defaults to 3.
        attn_channels (int, optional): Width of the attention branch.
            Defaults to None: half of the channels that the classifier reads,
            as the authors' 256 of 512.
        norm_cfg (dict, optional): Norm layers of the attention branch.
            Defaults to None: those of the last seg head, BN if it has none.
        **kwargs: ``loss_scale``, ``num_classes``, ``reinit_classifier``,
            ``fast`` and ``init_cfg`` of :class:`BaseMultiScaleHead`.

    Raises:
        ValueError: If ``num_scales`` is not an integer of 2 or more.
    """

    def __init__(
        self,
        seg_head: ConfigType | list[ConfigType],
        num_scales: int = 3,
        attn_channels: int | None = None,
        norm_cfg: OptConfigType = None,
        **kwargs,
    ) -> None:
        is_int = isinstance(num_scales, int)
        if not is_int or isinstance(num_scales, bool) or num_scales < 2:
            raise ValueError(
                'model.decode_head.num_scales must be an integer of 2 or '
                f'more, got {num_scales!r}'
            )
        super().__init__(seg_head, **kwargs)
        self.scale_attn = AttentionBranch(
            self.seg_heads[-1], attn_channels, norm_cfg, num_scales
        )
        self.num_scales = num_scales

    def check_num_scales(self, scales: Sequence[float], key: str) -> None:
        """Refuse another number of scales than ``num_scales``."""
        if len(scales) != self.num_scales:
            raise ValueError(
                f'{key} must hold model.decode_head.num_scales='
                f'{self.num_scales} scales, as AttentionToScaleHead weighs '
                f'a fixed number of them; got {tuple(scales)}'
            )

    def scale_weights(
        self,
        scales: Sequence[float],
        classifier_feats: Sequence[Tensor],
        input_size: Sequence[int],
    ) -> Sequence[Tensor]:
        """Predict how much each scale counts in each pixel.

        From what the classifier of each scale reads, (N, C, h, w), lowest
        scale first, to a weight in [0, 1] for each, (N, 1, H, W), float32 or
        float64; they add up to 1.
        """
        pivot = min(range(len(scales)), key=lambda i: abs(scales[i] - 1))
        size = classifier_feats[pivot].shape[2:]
        # Back to the features' type: float32 would double them under AMP.
        feats = [
            resize(feats, size, self.align_corners).to(feats.dtype)
            for feats in classifier_feats
        ]
        weights = self.scale_attn(torch.cat(feats, dim=1))
        weights = resize(weights, input_size, self.align_corners)
        return weights.split(1, dim=1)

    def reads_classifier_feats(self, is_top: bool) -> bool:
        """Those of all scales."""
        return True

    def attend(
        self, classifier_feats: Tensor | None, is_top: bool
    ) -> Tensor | None:
        """Keep the features: attention reads those of all scales at once."""
        return classifier_feats

    def combination(
        self,
        scales: Sequence[float],
        attended: Sequence[Tensor | None],
        input_size: Sequence[int],
        as_rows: bool,
    ) -> Callable[[Sequence[Tensor]], Tensor]:
        """Add up the scales by their weights, one after the other."""
        weights = self.scale_weights(scales, attended, input_size)

        def combine(maps: Sequence[Tensor]) -> Tensor:
            fused = 0
            for scale, x, weight in zip(scales, maps, weights):
                fused = fused + weight * at_input_size(
                    scale, x, input_size, self.align_corners
                )
            return fused

        return combine
