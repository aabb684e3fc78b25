"""The layers that attention comes from."""

from __future__ import annotations

import math

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmseg.utils import ConfigType, OptConfigType
from torch import Tensor, nn

from ..scale_fusion import in_float32
from .classifiers import find_classifier


class AttentionBranch(nn.Sequential):
    """3x3-norm-ReLU, 3x3-norm-ReLU, 1x1, to logits of attention.

    Without biases and with PyTorch's default initialisation, so that all
    scales start with about the same weight (NVIDIA/semantic-segmentation,
    network/utils.py, ``make_attn_head``, whose layer names are kept, and
    network/attnscale.py, the ``bn_head`` of ``ASDV3P``).

    Args:
        in_channels (int): Of the features.
        channels (int): Width of the branch.
        out_channels (int): Maps of attention.
        conv_cfg (dict, optional): Convolution layers.
        norm_cfg (dict): Norm layers.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        conv_cfg: OptConfigType,
        norm_cfg: ConfigType,
    ) -> None:
        super().__init__()
        for i, width in enumerate((in_channels, channels)):
            conv = build_conv_layer(
                conv_cfg, width, channels, 3, padding=1, bias=False
            )
            self.add_module(f'conv{i}', conv)
            self.add_module(f'bn{i}', build_norm_layer(norm_cfg, channels)[1])
            self.add_module(f'relu{i}', nn.ReLU(inplace=True))
        conv = build_conv_layer(
            conv_cfg, channels, out_channels, 1, bias=False
        )
        self.add_module('conv2', conv)

    def forward(self, feats: Tensor) -> Tensor:
        """Map features to logits, float32 or better; sizes stay."""
        return in_float32(super().forward(feats))


class ScaleAttentionBranch(AttentionBranch):
    """Attention of one scale from the classifier's features."""

    def forward(self, feats: Tensor) -> Tensor:
        """Map features (N, C, h, w) to attention in [0, 1], (N, 1, h, w)."""
        return super().forward(feats).sigmoid()


class JointAttentionBranch(AttentionBranch):
    """Weights of all scales from the features of all scales.

    The softmax is that of Chen et al. (https://arxiv.org/abs/1511.03339); the
    authors' code leaves it out.
    """

    def forward(self, feats: Tensor) -> Tensor:
        """Map (N, S * C, h, w) to weights with sum 1, (N, S, h, w)."""
        return super().forward(feats).softmax(dim=1)


def build_attention(
    branch: type[AttentionBranch],
    seg_head: nn.Module,
    attn_channels: int | None,
    norm_cfg: OptConfigType,
    num_scales: int = 1,
) -> AttentionBranch:
    """Build a branch that reads what the classifier of a seg head reads.

    Args:
        branch (type): Class of the branch.
        seg_head (nn.Module): A decode head of mmseg.
        attn_channels (int, optional): Width of the branch. None is the
            authors' proportion, half of the features' channels:
            ``SEGATTN_BOT_CH`` is 256, for 512 (NVIDIA/semantic-segmentation,
            config.py), rounded up to full groups of group normalisation.
        norm_cfg (dict, optional): Norm layers. None is those of the seg
            head, BN if it has none.
        num_scales (int): Scales whose features are read at once, each of
            which gets a map. Defaults to 1.

    Returns:
        AttentionBranch: The branch.

    Raises:
        ValueError: If ``attn_channels`` is below 1 or makes no full groups.
    """
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
            f'multiple of the {groups} groups of its {norm_cfg["type"]} layers'
        )
    if attn_channels < 1:
        raise ValueError(
            f'model.decode_head.attn_channels={attn_channels!r}; expected 1 '
            'or more, or None for half of what the classifier reads'
        )
    return branch(
        num_scales * in_channels,
        attn_channels,
        num_scales,
        owner.conv_cfg,
        norm_cfg,
    )
