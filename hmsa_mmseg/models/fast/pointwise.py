"""1x1 convolutions of maps whose channels lie next to each other.

In this layout (channels_last) a map is a matrix of pixels and channels, and a
1x1 convolution a product with it.

Shape shorthand in this module:
    N: batch, C, O: channels before and after, H, W: size of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 1x1 kernel.

    Args:
        x (Tensor): Shape (N, C, H, W); fastest if channels_last.
        weight (Tensor): Shape (O, C, 1, 1).
        bias (Tensor, optional): Shape (O,). Defaults to None.

    Returns:
        Tensor: Shape (N, O, H, W).
    """
    return F.conv2d(x, weight, bias, dilation=_dilation(x))


def _dilation(x: Tensor) -> int:
    """Dilation of 1x1 kernels, which does nothing, as they have one tap.

    Yet with one, torch leaves the product to oneDNN also where it runs on a
    single thread, which takes less than half of the time.
    """
    return 2 if x.device.type == 'cpu' and x.dtype == torch.float32 else 1


def channels_last(x: Tensor) -> Tensor:
    """Lay out a map (N, C, H, W) with its channels next to each other."""
    return x.contiguous(memory_format=torch.channels_last)


def convolved(x: Tensor) -> Tensor:
    """Lay out what a convolution gave for a channels_last input likewise.

    torch does so already, but for some unusual types and sizes, and on the
    `meta` device, which only counts: there nothing must be copied for it.
    """
    if x.is_meta and not torch.is_grad_enabled():
        _, c, h, w = x.shape
        return x.as_strided(x.shape, (c * h * w, 1, c * w, c))
    return channels_last(x)


def add_pointwise_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    x_grad: Tensor | None,
    weight_grad: Tensor | None,
) -> None:
    """Add the gradients of :func:`pointwise` in place, where there are any.

    Args:
        grad (Tensor): Of the result, shape (N, H, W, O).
        x (Tensor): Shape (N, C, H, W).
        weight (Tensor): Shape (O, C, 1, 1).
        x_grad (Tensor, optional): Of ``x``.
        weight_grad (Tensor, optional): Of ``weight``.
    """
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x,
        weight,
        None,  # no bias
        stride=[1, 1],
        padding=[0, 0],
        dilation=[_dilation(x)] * 2,
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[x_grad is not None, weight_grad is not None, False],
    )
    if x_grad is not None:
        x_grad += of_x
    if weight_grad is not None:
        weight_grad += of_weight
