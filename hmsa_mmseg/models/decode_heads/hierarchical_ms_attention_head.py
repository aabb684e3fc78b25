"""Decode head of hierarchical multi-scale attention.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: size of
    the seg head's features at one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList
from torch import Tensor

from ..fast.logit_rows import LogitRows
from ..fast.row_losses_walk import RowLogits
from ..fast.row_prediction import fuse_in_rows, fused_logits
from ..scale_fusion import fuse_scales, in_float32
from .attention_branch import AttentionBranch, attn_width
from .base_multi_scale_head import BaseMultiScaleHead, ScaleFeats
from .scale_predictions import ScalePredictions, scale_indicators
from .stages import (
    at_input_size,
    build_losses,
    combine_stages,
    losses_of_scales,
)


class ScaleMaps(NamedTuple):
    """What the blend reads of one scale.

    Attributes:
        seg_logits (Tensor): Shape (N, K, h, w).
        scale_attn (Tensor | None): Attention in [0, 1], (N, 1, h, w); of
            the highest scale None.
    """

    seg_logits: Tensor
    scale_attn: Tensor | None


class _ScaleAttentionBranch(AttentionBranch):
    """Attention of one scale from the classifier's features."""

    def forward(self, feats: Tensor) -> Tensor:
        """Map features (N, C, h, w) to attention in [0, 1], (N, 1, h, w)."""
        return super().forward(feats).sigmoid()


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
        loss_scale (dict | list[dict], optional): Loss on the main logits of
            every single scale, brought to the input's size; the authors give
            it a weight of 0.05 (``SUPERVISED_MSCALE_WT`` in their recipes).
            Defaults to None.
        norm_cfg (dict, optional): Norm layers of the attention branch.
            Defaults to None: those of the last seg head, BN if it has none.
        skip_top_scale_attn (bool): In training the attention of the highest
            scale enters no loss, yet the authors' BN statistics see it, so
            it runs without gradient. True leaves it out, which saves time
            and changes the running statistics of the attention branch, thus
            predictions. Defaults to False.
        **kwargs: ``num_classes``, ``reinit_classifier``, ``fast`` and
            ``init_cfg`` of :class:`BaseMultiScaleHead`.
    """

    # Attention is learned between adjacent scales: with a single one the
    # branch would get no gradient.
    min_train_scales = 2

    def __init__(
        self,
        seg_head: ConfigType | list[ConfigType],
        attn_channels: int | None = None,
        loss_scale: ConfigType | list[ConfigType] | None = None,
        norm_cfg: OptConfigType = None,
        skip_top_scale_attn: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(seg_head, **kwargs)
        classifier = self.classifier
        owner = classifier.owner
        self.scale_attn = _ScaleAttentionBranch(
            classifier.in_channels,
            attn_width(attn_channels, classifier.in_channels),
            1,
            owner.conv_cfg,
            norm_cfg or owner.norm_cfg or dict(type='BN'),
        )
        self.skip_top_scale_attn = skip_top_scale_attn
        self.loss_scale = build_losses(loss_scale)

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
        stages, seg_logits, classifier_feats = self.forward_seg_heads(feats)
        aux_logits = stages[-2] if len(stages) > 1 else None
        return seg_logits, aux_logits, self.scale_attn(classifier_feats)

    @property
    def fuses_in_rows(self) -> bool:
        """Whether scales are decoded alone, then blended in row tiles."""
        return self.fast

    def decode_scale(
        self, feats: Sequence[Tensor], with_attn: bool
    ) -> ScaleMaps:
        """Compute what the blend reads of one scale.

        Args:
            feats (Sequence[Tensor]): Features of backbone and neck.
            with_attn (bool): Whether to compute the attention, which
                nothing reads at the highest scale.

        Returns:
            ScaleMaps: Logits and attention.
        """
        _, seg_logits, attn_feats = self.forward_seg_heads(
            feats, with_classifier_feats=with_attn
        )
        attn = self.scale_attn(attn_feats) if with_attn else None
        return ScaleMaps(seg_logits, attn)

    def predict(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> Tensor:
        """Blend the scales; of the highest no attention is computed.

        Instead of the features of a scale, ``inputs`` may hold its
        :class:`ScaleMaps`.
        """
        return self._fuse(self._outputs(inputs), input_size)

    def _fuse(
        self,
        outputs: Iterable[tuple[float, Tensor, Tensor | None]],
        input_size: Sequence[int],
    ) -> Tensor:
        fuse = fuse_in_rows if self.fast else fuse_scales
        return fuse(outputs, input_size, self.align_corners)

    def predict_rows(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> LogitRows:
        """Compute all scales; they are blended when rows are asked for."""
        if not self.fast:
            return super().predict_rows(inputs, input_size)
        return fused_logits(
            self._outputs(inputs), input_size, self.align_corners
        )

    def predict_scales(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> ScalePredictions:
        """Blend the scales, and keep what each of them says."""
        scales, logits, attns = zip(*self._outputs(inputs))

        def blend(maps: Sequence[Tensor]) -> Tensor:
            return self._fuse(zip(scales, maps, attns), input_size)

        def up(maps: Sequence[Tensor]) -> list[Tensor]:
            return [
                at_input_size(scale, x, input_size, self.align_corners)
                for scale, x in zip(scales[-len(maps) :], maps)
            ][::-1]

        weights = blend(scale_indicators([in_float32(x) for x in logits]))
        seg_logits = blend(logits)
        scale_attn = up(attns[1:]) if len(scales) > 1 else []
        return ScalePredictions(
            seg_logits,
            weights.flip(1),
            torch.cat([seg_logits[:, :0], *scale_attn], dim=1),
            torch.stack(up(logits), dim=1),
        )

    def num_scale_attns(self, num_scales: int) -> int:
        """Count the attention maps: the highest scale's is never used."""
        return num_scales - 1

    def _outputs(
        self, inputs: Iterable[ScaleFeats]
    ) -> Iterator[tuple[float, Tensor, Tensor | None]]:
        is_top = True
        for scale, feats in inputs:
            maps = feats
            if not isinstance(feats, ScaleMaps):
                maps = self.decode_scale(feats, with_attn=not is_top)
            # Memory that the next scale may need.
            del feats
            yield (scale, *maps)
            is_top = False

    def loss(
        self,
        inputs: Iterable[ScaleFeats],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute losses on blended outputs and, if asked, on each scale.

        Returns:
            dict[str, Tensor]: ``decode.*`` for the last seg head, ``aux.*``
            for the one before it in a cascade, ``scale_<s>.*`` for the
            logits of each scale if there is a ``loss_scale``.
        """
        inputs = list(inputs)
        scales, seg_outputs, attns = [], [], []
        # Lowest first: BN sees the scales in the authors' order.
        for i, (scale, feats) in enumerate(inputs):
            outputs = self.forward_scale(scale, feats)
            attn = self._train_attn(
                outputs.classifier_feats, is_top=i == len(inputs) - 1
            )
            scales.append(scale)
            seg_outputs.append(outputs)
            attns.append(attn)

        def fuse(maps: Sequence[Tensor]) -> Tensor | RowLogits:
            fused = RowLogits(
                tuple(scales[::-1]),
                tuple(maps[::-1]),
                tuple(attns[::-1]),
                tuple(input_size),
                self.align_corners,
            )
            return fused if self.fast else fused.full()

        losses = self.loss_by_stage(
            combine_stages(seg_outputs, fuse), batch_data_samples
        )
        losses.update(
            losses_of_scales(
                self, scales, seg_outputs, input_size, batch_data_samples
            )
        )
        return losses

    def _train_attn(self, feats: Tensor, is_top: bool) -> Tensor | None:
        if not is_top:
            return self.scale_attn(feats)
        if not self.skip_top_scale_attn:
            with torch.no_grad():
                self.scale_attn(feats)
        return None
