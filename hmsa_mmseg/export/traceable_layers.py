"""Layers of which exporters make constants, as others that stay variable.

Shape shorthand in this module:
    N: batch, C: channels, h, w: size of the input, a, b: size of the result
    of pooling; L, S: number of queries and keys, E: their channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Their fast path reads the weights of the attention without calling it.
_READ_THEIR_ATTENTION = (
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


class MatrixAveragePool2d(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two products with matrices of weights.

    The mean over a rectangle is a mean over its rows of means over its
    columns, and each is a matrix product. ONNX has no operator for adaptive
    pooling, and what exporters make of it fits one input size.

    Args:
        output_size (tuple[int]): (a, b).
    """

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, a, b)."""
        rows = _bin_weights(self.output_size[0], x.shape[2], x)
        columns = _bin_weights(self.output_size[1], x.shape[3], x)
        return rows @ x @ columns.t()


def _bin_weights(bins: int, length: int, like: Tensor) -> Tensor:
    """Weights of ``length`` values in the means of ``bins`` bins.

    Bin ``i`` reaches from ``floor(i * length / bins)`` to, exclusively,
    ``ceil((i + 1) * length / bins)``, as PyTorch's do
    (aten/src/ATen/native/AdaptivePooling.h, ``start_index``, ``end_index``).
    """
    first = torch.arange(bins, device=like.device)[:, None]
    starts = first * length // bins
    ends = ((first + 1) * length + bins - 1) // bins
    at = torch.arange(length, device=like.device)
    is_inside = (at >= starts) & (at < ends)
    return is_inside.to(like.dtype) / (ends - starts).to(like.dtype)


class PlainAttention(nn.Module):
    """``nn.MultiheadAttention`` in single steps, without masks.

    What PyTorch's does to its arguments makes the number of keys a constant
    when it is traced for ONNX.

    Args:
        attention (nn.MultiheadAttention): Its weights are shared. A call
            with a mask goes to it.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as ``nn.MultiheadAttention`` in evaluation mode."""
        own = self.attention
        if key_padding_mask is not None or attn_mask is not None or kwargs:
            masks = (key_padding_mask, need_weights, attn_mask)
            return own(query, key, value, *masks, **kwargs)
        weights = own.in_proj_weight.chunk(3)
        biases = (None, None, None)
        if own.in_proj_bias is not None:
            biases = own.in_proj_bias.chunk(3)
        heads = []
        for x, weight, bias in zip((query, key, value), weights, biases):
            x = F.linear(x, weight, bias)
            x = x if own.batch_first else x.transpose(0, 1)
            x = x.reshape(x.shape[0], x.shape[1], own.num_heads, own.head_dim)
            heads.append(x.transpose(1, 2))  # (N, heads, L or S, E / heads)
        q, k, v = heads
        attn = (q * own.head_dim**-0.5) @ k.transpose(2, 3)
        attn = attn.softmax(dim=-1)
        result = own.out_proj((attn @ v).transpose(1, 2).flatten(2))
        result = result if own.batch_first else result.transpose(0, 1)
        return result, attn.mean(dim=1) if need_weights else None


def make_traceable(model: nn.Module) -> None:
    """Replace layers, in place, of which an exporter would make constants."""
    for module in list(model.modules()):
        if isinstance(module, _READ_THEIR_ATTENTION):
            continue
        for name, child in module.named_children():
            # Subclasses may do something else.
            if type(child) is nn.AdaptiveAvgPool2d:
                size = child.output_size
                size = (size, size) if isinstance(size, int) else tuple(size)
                # A mean over the whole map is in both formats.
                if None not in size and size != (1, 1):
                    setattr(module, name, MatrixAveragePool2d(size))
            elif type(child) is nn.MultiheadAttention:
                is_plain = child.bias_k is None and not child.add_zero_attn
                if is_plain and child.in_proj_weight is not None:
                    setattr(module, name, PlainAttention(child))
