"""Fusion of per-scale predictions, as pure functions of tensors.

Hierarchical multi-scale attention (https://arxiv.org/abs/2005.10821, sec. 3)
blends adjacent scales, highest first::

    fused = attn_s * logits_s + (1 - attn_s) * fused_of_higher_scales

The order of operations below is that of the authors' ``nscale_forward`` and
``two_scale_forward`` (NVIDIA/semantic-segmentation, network/ocrnet.py): both
maps of a scale are upsampled to the full size of the image *at that scale*,
multiplied, and only then brought to the size at which they are blended.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
#: The largest relative size. The paper's is 2; at 16 one pixel is 256.
MAX_SCALE = 16


def check_scales(scales: object, key: str, min_scales: int = 1) -> tuple:
    """Check a list of scales and return it in ascending order.

    A ValueError, which names ``key``, says if these are not ``min_scales`` or
    more different numbers above 0, up to :data:`MAX_SCALE`.
    """
    expected = (
        f'{key} must be a list of {min_scales} or more different numbers '
        f'above 0, up to {MAX_SCALE}, for example (0.5, 1.0)'
    )
    if isinstance(scales, str) or not isinstance(scales, Sequence):
        raise ValueError(f'{expected}; got {scales!r}')
    for scale in scales:
        is_number = isinstance(scale, (int, float))
        if isinstance(scale, bool) or not is_number:
            raise ValueError(f'{expected}; got {scale!r} in {scales!r}')
        if not 0 < scale <= MAX_SCALE:
            raise ValueError(f'{expected}; got {scale!r} in {scales!r}')
    ascending = tuple(sorted(float(scale) for scale in scales))
    if len(ascending) < min_scales or len(set(ascending)) < len(ascending):
        raise ValueError(f'{expected}; got {scales!r}')
    return ascending


def exact_ratio(scale: float) -> tuple[int, int] | None:
    """Write a scale as numerator / denominator, if both are small, else None.

    Then ``size * numerator // denominator`` is ``int(size * scale)``, as the
    product is exact in float64, and a graph of integers can hold it. So it is
    for 0.25, 0.5, 1.75; not for 0.7, which float64 rounds.
    """
    numerator, denominator = float(scale).as_integer_ratio()
    is_small = max(numerator, denominator) <= 1 << 16
    return (numerator, denominator) if is_small else None


def scaled_size(size: Sequence[int], scale: float) -> Size:
    """Size of an image of ``size`` (H, W) at ``scale``, at least 1 x 1.

    The floor is that of the authors' ``ResizeX`` (network/mynn.py), which
    ``F.interpolate(scale_factor=...)`` takes.
    """
    ratio = exact_ratio(scale)
    if ratio is None:
        height, width = (int(side * scale) for side in size)
    else:
        # In integers, so that exported graphs keep H and W as variables.
        height, width = (side * ratio[0] // ratio[1] for side in size)
    return max(height, 1), max(width, 1)


def blend_size(input_size: Sequence[int], scale: float) -> Size:
    """Size at which a scale is blended into the higher ones.

    That of the image at this scale, but never less than the input's, which
    is the target of the chain whether or not 1.0 is among the scales.
    """
    return scaled_size(input_size, scale) if scale >= 1 else tuple(input_size)


def in_float32(x: Tensor) -> Tensor:
    """Cast to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize a map (N, C, h, w) bilinearly, in float32 or better.

    float64 stays, all else is float32, also under autocast, as in the authors'
    code, whose upsampling is kept out of half precision.
    """
    x = in_float32(x)
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(
        x, size=tuple(size), mode='bilinear', align_corners=align_corners
    )


def resize_image(inputs: Tensor, scale: float, align_corners: bool) -> Tensor:
    """Resize images to their :func:`scaled_size`; their dtype stays."""
    size = scaled_size(inputs.shape[2:], scale)
    return resize(inputs, size, align_corners).to(inputs.dtype)


def blend_scale(
    lo_logits: Tensor,
    lo_attn: Tensor,
    hi_logits: Tensor,
    scale_size: Sequence[int],
    size: Sequence[int],
    align_corners: bool = False,
) -> Tensor:
    """Blend one scale into what the higher scales gave, by its attention.

    ``up(attn * lo) + (1 - up(attn)) * hi``, (N, K, H, W), by way of the size
    of the image at this scale.

    Args:
        lo_logits (Tensor): Logits of this scale, (N, K, h, w).
        lo_attn (Tensor): Its attention in [0, 1], (N, 1, h, w).
        hi_logits (Tensor): Blended logits of higher scales, (N, K, any, any).
        scale_size (Sequence[int]): Size of the image at this scale.
        size (Sequence[int]): Size (H, W) of the result.
        align_corners (bool): As in ``F.interpolate``. Defaults to False.
    """
    lo_attn = resize(lo_attn, scale_size, align_corners)
    lo_logits = lo_attn * resize(lo_logits, scale_size, align_corners)
    lo_logits = resize(lo_logits, size, align_corners)
    lo_attn = resize(lo_attn, size, align_corners)
    hi_logits = resize(hi_logits, size, align_corners)
    return lo_logits + (1 - lo_attn) * hi_logits


def fuse_scales(
    scale_outputs: Iterable[tuple[float, Tensor, Tensor | None]],
    input_size: Sequence[int],
    align_corners: bool = False,
) -> Tensor:
    """Blend any number of scales, highest first, at the input's size.

    Each is blended at its :func:`blend_size`. The iterable is consumed one
    scale at a time, so memory does not grow with the number of scales.

    Args:
        scale_outputs (Iterable[tuple]): ``(scale, seg_logits, scale_attn)``
            with falling scales, logits (N, K, h, w) and attention in [0, 1]
            (N, 1, h, w). The attention of the first is not read.
        input_size (Sequence[int]): Size (H, W) of the input image.
        align_corners (bool): As in ``F.interpolate``. Defaults to False.

    Returns:
        Tensor: Blended logits, shape (N, K, H, W).

    Raises:
        ValueError: If there is no scale at all.
    """
    fused = None
    for scale, seg_logits, scale_attn in scale_outputs:
        scale_size = scaled_size(input_size, scale)
        size = blend_size(input_size, scale)
        if fused is None:
            fused = resize(seg_logits, scale_size, align_corners)
            fused = resize(fused, size, align_corners)
        else:
            fused = blend_scale(
                seg_logits, scale_attn, fused, scale_size, size, align_corners
            )
    if fused is None:
        raise ValueError('fuse_scales needs at least one scale, got none')
    return resize(fused, input_size, align_corners)
