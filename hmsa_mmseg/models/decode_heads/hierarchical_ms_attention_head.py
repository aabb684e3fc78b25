"""Decode head of hierarchical multi-scale attention.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: size of
    the seg head's features at one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList
from torch import Tensor

from ..scale_fusion import fuse_scales, in_float32
from ..tiled.logit_rows import LogitRows, fused_rows
from ..utils import is_tracing
from .attention_branch import ScaleAttentionBranch, build_attention
from .base_multi_scale_head import BaseMultiScaleHead, ScaleFeats
from .combining import at_input_size
from .scale_maps import ScaleMaps, scale_indicators


@MODELS.register_module()
class HierarchicalMSAttentionHead(BaseMultiScaleHead):
    """Any mmseg decode head, with attention that blends scales.

    A branch beside the seg head's classifier predicts, from the features the
    classifier reads, how far this scale is to be trusted in each pixel
    against all higher scales (`Hierarchical Multi-Scale Attention for
    Semantic Segmentation <https://arxiv.org/abs/2005.10821>`_, sec. 3):
    ``fused = attn_s * logits_s + (1 - attn_s) * fused_of_higher_scales``.
    Each seg head computes its own losses, on its blended outputs.

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

    def combine(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> Tensor:
        """Blend the scales, one after the other."""
        return fuse_scales(
            self._scale_outputs(inputs), input_size, self.align_corners
        )

    def predict_rows(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> LogitRows:
        """Compute all scales; they are blended when rows are asked for."""
        if not self.fast or is_tracing() or torch.is_grad_enabled():
            return super().predict_rows(inputs, input_size)
        scales, logits, attns = zip(*self._scale_outputs(inputs))
        return fused_rows(
            scales, logits, attns, input_size, self.align_corners
        )

    def _scale_outputs(
        self, inputs: Iterable[ScaleFeats]
    ) -> Iterator[tuple[float, Tensor, Tensor | None]]:
        """Decode scale by scale; of the highest no attention is computed."""
        for i, (scale, feats) in enumerate(inputs):
            outputs = self.forward_seg_heads(
                feats, with_classifier_feats=i > 0
            )
            # Memory that the attention, or the next scale, may need.
            del feats
            seg_logits, attn_feats = outputs[1:]
            del outputs
            attn = self.scale_attn(attn_feats) if i > 0 else None
            del attn_feats
            yield scale, seg_logits, attn

    def predict_scale_maps(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> ScaleMaps:
        """Blend the scales, and keep what each of them says."""
        scales, logits, attns = zip(*self._scale_outputs(inputs))

        def blend(maps: Sequence[Tensor]) -> Tensor:
            return fuse_scales(
                zip(scales, maps, attns), input_size, self.align_corners
            )

        def up(maps: Sequence[Tensor]) -> list[Tensor]:
            return [
                at_input_size(scale, x, input_size, self.align_corners)
                for scale, x in zip(scales[-len(maps) :], maps)
            ][::-1]

        weights = blend(scale_indicators([in_float32(x) for x in logits]))
        seg_logits = blend(logits)
        scale_attn = up(attns[1:]) if len(scales) > 1 else []
        return ScaleMaps(
            seg_logits,
            weights.flip(1),
            torch.cat([seg_logits[:, :0], *scale_attn], dim=1),
            torch.stack(up(logits), dim=1),
        )

    def loss(
        self,
        inputs: Iterable[ScaleFeats],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute losses on blended outputs and, if asked, on each scale."""
        inputs = list(inputs)
        scales, seg_outputs, attns = [], [], []
        # Lowest first: BN sees the scales in the authors' order.
        for i, (scale, feats) in enumerate(inputs):
            outputs = self.forward_scale(scale, feats)
            is_top = i == len(inputs) - 1
            scales.append(scale)
            seg_outputs.append(outputs)
            attns.append(self._train_attn(outputs.classifier_feats, is_top))

        def fuse(maps: Sequence[Tensor]) -> Tensor | LogitRows:
            top_first = scales[::-1], maps[::-1], attns[::-1]
            args = input_size, self.align_corners
            if self.fast:
                return fused_rows(*top_first, *args)
            return fuse_scales(zip(*top_first), *args)

        return self.losses_of(
            scales, seg_outputs, fuse, input_size, batch_data_samples
        )

    def _train_attn(self, feats: Tensor, is_top: bool) -> Tensor | None:
        if not is_top:
            return self.scale_attn(feats)
        if not self.skip_top_scale_attn:
            with torch.no_grad():
                self.scale_attn(feats)
        return None
