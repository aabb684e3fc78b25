"""Counting of floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hmsa_mmseg.compat import flop_counter


def count_flops(function: Callable[[], Any]) -> int:
    """Count the floating-point operations of a call.

    They are counted where PyTorch dispatches them: what is computed by
    functions instead of layers counts as well, which hooks on layers miss.

    Args:
        function (Callable): What to run; backward counts if it is run inside.

    Returns:
        int: Operations of matrix products and convolutions, two for each
        multiplication with its addition; all else is not counted.
    """
    mapping = {torch.ops.aten.convolution_backward: _backward_flops}
    with flop_counter(display=False, custom_mapping=mapping) as counter:
        function()
    return counter.get_total_flops()


def _backward_flops(
    grad_out: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: Sequence[bool],
    *,
    out_shape: Any,
    **kwargs: Any,
) -> int:
    """Count a convolution's backward: each gradient costs what forward does.

    torch's own count leaves out the groups in the weight's gradient, which
    makes that of a depthwise convolution of 64 channels 64 times too large.
    """
    size = x if transposed else grad_out
    forward = 2 * x[0] * math.prod(weight) * math.prod(size[2:])
    return forward * sum(output_mask[:2])
