"""Decode head of hierarchical multi-scale attention.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: size of
    the seg head's features at one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType
from torch import Tensor, nn

from ..scale_fusion import fuse_scales, in_float32
from ..tiled.logit_rows import FusedLogits, LogitRows
from .base_multi_scale_head import BaseMultiScaleHead
from .classifiers import find_classifier


class AttentionBranch(nn.Sequential):
    """Attention, in [0, 1], from what the classifier of a seg head reads.

    3x3-norm-ReLU, 3x3-norm-ReLU, 1x1, without biases and with PyTorch's
    default initialisation, so that all scales start with about the same weight
    (NVIDIA/semantic-segmentation, network/utils.py, ``make_attn_head``, whose
    layer names are kept, and network/attnscale.py, the ``bn_head`` of
    ``ASDV3P``). Of one scale a sigmoid is taken. Features of several are read
    at once, each of which gets a map, and of these a softmax is taken, that of
    Chen et al. (https://arxiv.org/abs/1511.03339); the authors' code leaves it
    out.

    Args:
        seg_head (nn.Module): A decode head of mmseg.
        attn_channels (int, optional): Width of the branch. None is the
            authors' proportion, half of the features' channels:
            ``SEGATTN_BOT_CH`` is 256, for 512 (config.py), rounded up to full
            groups of group normalisation.
        norm_cfg (dict, optional): Norm layers. None is those of the seg head,
            BN if it has none.
        num_scales (int): Scales whose features are read. Defaults to 1.

    Raises:
        ValueError: If ``attn_channels`` is below 1 or makes no full groups.
    """

    def __init__(
        self,
        seg_head: nn.Module,
        attn_channels: int | None,
        norm_cfg: OptConfigType,
        num_scales: int = 1,
    ) -> None:
        super().__init__()
        classifier = find_classifier(seg_head)
        owner, in_channels = classifier.owner, classifier.in_channels
        norm_cfg = norm_cfg or owner.norm_cfg or dict(type='BN')
        groups = norm_cfg.get('num_groups', 1)
        if attn_channels is None:
            half = max(in_channels // 2, 1)
            attn_channels = math.ceil(half / groups) * groups
        if attn_channels % groups:
            raise ValueError(
                f'model.decode_head.attn_channels={attn_channels}; expected a '
                f'multiple of the {groups} groups of its {norm_cfg["type"]} '
                'layers'
            )
        if attn_channels < 1:
            raise ValueError(
                f'model.decode_head.attn_channels={attn_channels!r}; expected '
                '1 or more, or None for half of what the classifier reads'
            )
        for i, width in enumerate((num_scales * in_channels, attn_channels)):
            conv = build_conv_layer(
                *(owner.conv_cfg, width, attn_channels, 3),
                padding=1,
                bias=False,
            )
            norm = build_norm_layer(norm_cfg, attn_channels)[1]
            self.add_module(f'conv{i}', conv)
            self.add_module(f'bn{i}', norm)
            self.add_module(f'relu{i}', nn.ReLU(inplace=True))
        conv = build_conv_layer(
            owner.conv_cfg, attn_channels, num_scales, 1, bias=False
        )
        self.add_module('conv2', conv)
        self.num_scales = num_scales

    def forward(self, feats: Tensor) -> Tensor:
        """Map (N, S * C, h, w) to (N, S, h, w), float32 or better."""
        logits = in_float32(super().forward(feats))
        return logits.sigmoid() if self.num_scales == 1 else logits.softmax(1)


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
        self.scale_attn = AttentionBranch(
            self.seg_heads[-1], attn_channels, norm_cfg
        )
        self.skip_top_scale_attn = skip_top_scale_attn

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
