"""Steps of mmseg's seg heads, taken one by one and not as modules.

Shape shorthand in this module:
    N: batch, C: channels, O: output channels, K: classes, h, w: size of a
    map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .head_structure import can_fold
from .pointwise import pointwise
from .pyramid_conv import PyramidConv


def is_constant(head: nn.Module, feats: Sequence[Tensor]) -> bool:
    """Whether a head may be computed in any order, a few rows at a time.

    Args:
        head (nn.Module): A decode head of mmseg.
        feats (Sequence[Tensor]): What it reads.

    Returns:
        bool: True if no gradient is wanted, and norms and dropout do not
        depend on the batch: norms are affine, dropout does nothing.
    """
    if torch.is_grad_enabled() and any(
        x.requires_grad for x in (*feats, *head.parameters())
    ):
        return False
    dropout = head.dropout
    if head.training or (dropout is not None and dropout.training):
        return False
    return all(
        can_fold(module) and not module.training
        for module in head.modules()
        if isinstance(module, ConvModule)
    )


def levels_conv(
    head: nn.Module,
    feats: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
) -> PyramidConv:
    """Set up a head's convolution of the levels that it reads."""
    levels = [feats[i] for i in head.in_index]
    return PyramidConv(levels, weight, bias, head.align_corners)


def finish(module: ConvModule, x: Tensor) -> Tensor:
    """Do what a ConvModule does after its convolution."""
    if module.with_norm:
        x = module.norm(x)
    return activate(module, x)


def activate(module: ConvModule, x: Tensor) -> Tensor:
    """Do what a ConvModule does after its norm; may change ``x``."""
    return module.activate(x) if module.with_activation else x


def classify(head: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Classify each pixel.

    Args:
        head (nn.Module): With ``dropout`` and ``conv_seg``.
        x (Tensor): Shape (N, C, h, w).

    Returns:
        tuple[Tensor, Tensor]: Logits (N, K, h, w), and what the classifier
        reads: ``x`` after dropout.
    """
    if head.dropout is not None:
        x = head.dropout(x)
    # A map of K channels: in the order that others expect.
    return pointwise(x, *conv_weights(head.conv_seg)).contiguous(), x


def conv_weights(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Weight (O, C, k, k) and bias (O,) of a convolution."""
    return conv.weight, conv.bias


def folded(module: ConvModule) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution together with its norm.

    Batch normalisation with fixed statistics is ``factor * x + shift`` with
    ``factor = weight / sqrt(var + eps)``, which the convolution takes over.

    Args:
        module (ConvModule): One that :func:`.head_structure.can_fold`.

    Returns:
        tuple[Tensor, Tensor | None]: Shapes (O, C, k, k) and (O,).
    """
    weight, bias = conv_weights(module.conv)
    norm = module.norm if module.with_norm else None
    if not isinstance(norm, _BatchNorm):
        return weight, bias
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * factor
    if norm.bias is not None:
        shift = shift + norm.bias
    return weight * factor[:, None, None, None], shift
