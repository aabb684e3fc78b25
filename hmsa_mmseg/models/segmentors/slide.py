"""Inference in windows that overlap, as mmseg's, in less memory.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: size of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from torch import Tensor


def slide_windows(length: int, window: int, stride: int) -> list[slice]:
    """Lay windows over one side of an image, where mmseg lays them.

    A window is cut to the length of the side; the last is moved back to end
    with the image.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, length) for i in range(count)]
    return [slice(max(end - window, 0), end) for end in ends]


def mean_over_windows(
    predict: Callable[[Tensor], Tensor],
    inputs: Tensor,
    crop_size: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Average the logits of windows, each added where it lies, (N, K, H, W).

    mmseg's ``EncoderDecoder.slide_inference`` gives the same, and makes a map
    of the size of the image of every window. ``predict`` gives the logits of a
    window.
    """
    size = inputs.shape[2:]
    windows = [slide_windows(*side) for side in zip(size, crop_size, stride)]
    total = None
    for y, x in product(*windows):
        found = predict(inputs[:, :, y, x])
        if total is None:
            total = found.new_zeros(*found.shape[:2], *size)
        total[:, :, y, x] += found
    counts = [total.new_zeros(length) for length in size]
    for count, side in zip(counts, windows):
        for window in side:
            count[window] += 1
    return total.div_(counts[0][:, None] * counts[1])
