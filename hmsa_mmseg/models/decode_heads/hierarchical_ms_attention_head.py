"""Decode head of hierarchical multi-scale attention.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: size of
    the seg head's features at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType
from torch import Tensor

from ..scale_fusion import fuse_scales
from ..tiled.logit_rows import FusedLogits, LogitRows
from .attention_branch import ScaleAttentionBranch, build_attention
from .base_multi_scale_head import BaseMultiScaleHead


@MODELS.register_module()
class HierarchicalMSAttentionHead(BaseMultiScaleHead):
    """Any mmseg decode head, with attention that blends scales.

    A branch beside the seg head's classifier predicts, from the features the
    classifier reads, how far this scale is to be trusted in each pixel
    against all higher scales (`Hierarchical Multi-Scale Attention for
    Semantic Segmentation <https://arxiv.org/abs/2005.10821>`_, sec. 3):
    ``fused = attn_s * logits_s + (1 - attn_s) * fused_of_higher_scales``.

    Args:
        seg_head (dict | list[dict]): Config of a decode head of mmseg that
            ends in a classifier, or of a cascade of them, each
            reading its predecessor's output, as OCRNet's.
        attn_channels (int, optional): Width of the attention branch.
            Defaults to None: half of the channels that the classifier reads,
            as the authors' 256 (``SEGATTN_BOT_CH``) of 512.
        norm_cfg (dict, optional): Norm layers of the attention branch.
            Defaults to None: those of the last seg head, BN if it has none.
        skip_top_scale_attn (bool): In training the attention of the highest
            scale enters no loss, yet the authors' BN statistics see it, so
            it runs without gradient. True leaves it out, which saves time
            and changes the running statistics of the attention branch, thus
            predictions. Defaults to False.
        **kwargs: ``loss_scale``, ``num_classes``, ``reinit_classifier``,
            ``fast`` and ``init_cfg`` of :class:`BaseMultiScaleHead`.
    """

    # Attention is learned between adjacent scales: with a single one the
    # branch would get no gradient.
    min_train_scales = 2
    attends_to_neighbours = True

    def __init__(
        self,
        seg_head: ConfigType | list[ConfigType],
        attn_channels: int | None = None,
        norm_cfg: OptConfigType = None,
        skip_top_scale_attn: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(seg_head, **kwargs)
        self.scale_attn = build_attention(
            ScaleAttentionBranch, self.seg_heads[-1], attn_channels, norm_cfg
        )
        self.skip_top_scale_attn = skip_top_scale_attn

    def forward(
        self, feats: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Decode one scale.

        Args:
            feats (Sequence[Tensor]): Features of backbone and neck.

        Returns:
            tuple: Logits of the last seg head (N, K, h, w), those of the one
            before it in a cascade or None, and the attention of this scale
            in [0, 1], (N, 1, h, w), float32.
        """
        outputs, seg_logits, classifier_feats = self.forward_seg_heads(feats)
        aux_logits = outputs[-2] if len(outputs) > 1 else None
        return seg_logits, aux_logits, self.scale_attn(classifier_feats)

    @property
    def _attends_to_top(self) -> bool:
        return self.scale_attn.training and not self.skip_top_scale_attn

    def reads_classifier_feats(self, is_top: bool) -> bool:
        """At test time not those of the highest scale."""
        return not is_top or self._attends_to_top

    def attend(
        self, classifier_feats: Tensor | None, is_top: bool
    ) -> Tensor | None:
        """Predict attention; that of the highest scale is never used."""
        if not is_top:
            return self.scale_attn(classifier_feats)
        if self._attends_to_top:
            with torch.no_grad():
                self.scale_attn(classifier_feats)
        return None

    def combination(
        self,
        scales: Sequence[float],
        attended: Sequence[Tensor | None],
        input_size: Sequence[int],
        as_rows: bool,
    ) -> Callable[[Sequence[Tensor]], Tensor | LogitRows]:
        """Blend the scales, highest first."""

        def combine(maps: Sequence[Tensor]) -> Tensor | LogitRows:
            top_first = scales[::-1], maps[::-1], attended[::-1]
            args = input_size, self.align_corners
            if as_rows:
                return FusedLogits(*top_first, *args)
            return fuse_scales(zip(*top_first), *args)

        return combine
