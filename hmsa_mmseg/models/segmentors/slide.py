"""Inference in windows that overlap, as mmseg's, in less memory.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: size of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def slide_windows(length: int, window: int, stride: int) -> list[slice]:
    """Lay windows over one side of an image, where mmseg lays them.

    Args:
        length (int): Of the side.
        window (int): Length of a window, cut to that of the side.
        stride (int): From one window to the next; the last is moved back to
            end with the image.

    Returns:
        list[slice]: The windows.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, length) for i in range(count)]
    return [slice(max(end - window, 0), end) for end in ends]


def mean_over_windows(
    predict: Callable[[Tensor], Tensor],
    inputs: Tensor,
    out_channels: int,
    crop_size: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Average the logits of windows, each added where it lies.

    mmseg's ``EncoderDecoder.slide_inference`` gives the same, and makes a
    map of the size of the image of every window.

    Args:
        predict (Callable): Gives the logits of a window.
        inputs (Tensor): Images, shape (N, 3, H, W).
        out_channels (int): K.
        crop_size (Sequence[int]): Height and width of a window.
        stride (Sequence[int]): Its steps.

    Returns:
        Tensor: Shape (N, K, H, W), float32, float64 for such images.
    """
    size = inputs.shape[2:]
    windows = [slide_windows(*side) for side in zip(size, crop_size, stride)]
    total = inputs.new_zeros(
        (len(inputs), out_channels, *size),
        dtype=torch.promote_types(inputs.dtype, torch.float32),
    )
    counts = [total.new_zeros(length) for length in size]
    for count, side in zip(counts, windows):
        for window in side:
            count[window] += 1
    for y in windows[0]:
        for x in windows[1]:
            total[:, :, y, x] += predict(inputs[:, :, y, x])
    return total.div_(counts[0][:, None] * counts[1])
