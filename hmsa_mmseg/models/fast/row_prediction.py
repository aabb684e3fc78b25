"""Prediction from the maps of all scales, in tiles of rows.

Nothing of the size of the image is made but what is asked for: whole logits,
or the classes alone.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..scale_fusion import fuse_scales, in_float32
from .decisions import decide
from .logit_rows import FusedLogits, LogitRows, WholeLogits
from .row_fusion import RowFusion
from .tracing import is_tracing


def _collect(
    scale_outputs: Iterable[tuple[float, Tensor, Tensor | None]],
) -> list[tuple[float, Tensor, Tensor | None]]:
    """Take all scales, in the type in which they are blended."""
    return [
        (scale, in_float32(logits), None if attn is None else in_float32(attn))
        for scale, logits, attn in scale_outputs
    ]


def _fit(scale_outputs: list[tuple[float, Tensor, Tensor | None]]) -> bool:
    """Whether it can be done in tiles: one map size at each scale.

    A traced graph is for other sizes too, and tiles are of one.
    """
    if is_tracing() or not scale_outputs:
        return False
    return all(
        attn is None or attn.shape[2:] == logits.shape[2:]
        for _, logits, attn in scale_outputs
    )


def fused_logits(
    scale_outputs: Iterable[tuple[float, Tensor, Tensor | None]],
    input_size: Sequence[int],
    align_corners: bool = False,
) -> LogitRows:
    """Get ready to do what :func:`..scale_fusion.fuse_scales` does.

    Arguments and errors are the same.

    Returns:
        LogitRows: Rows are fused when they are asked for. In a trace, or if
        maps differ in size, all are fused here.
    """
    outputs = _collect(scale_outputs)
    if not _fit(outputs):
        return WholeLogits(fuse_scales(outputs, input_size, align_corners))
    scales, logits, attns = zip(*outputs)
    sizes = [tuple(x.shape[2:]) for x in logits]
    return FusedLogits(
        logits, attns, RowFusion(scales, sizes, input_size, align_corners)
    )


def fuse_in_rows(
    scale_outputs: Iterable[tuple[float, Tensor, Tensor | None]],
    input_size: Sequence[int],
    align_corners: bool = False,
) -> Tensor:
    """Do what :func:`..scale_fusion.fuse_scales` does, in tiles of rows.

    Arguments, result and errors are the same. Memory beside the result is
    that of a tile and of the maps of all scales. Where a gradient is wanted,
    in a trace, or if maps differ in size, it is ``fuse_scales`` that runs.
    """
    if torch.is_grad_enabled():
        return fuse_scales(scale_outputs, input_size, align_corners)
    logits = fused_logits(scale_outputs, input_size, align_corners)
    if isinstance(logits, WholeLogits):
        return logits.logits
    fused = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    for rows in logits.tiles():
        fused[:, :, rows] = logits.rows(rows)
    return fused


def classes_in_rows(
    scale_outputs: Iterable[tuple[float, Tensor, Tensor | None]],
    input_size: Sequence[int],
    align_corners: bool = False,
    threshold: float | None = None,
) -> Tensor:
    """Fuse scales and keep the classes alone.

    Args:
        scale_outputs (Iterable[tuple]): As for ``fuse_scales``.
        input_size (Sequence[int]): H and W.
        align_corners (bool): As in ``F.interpolate``. Defaults to False.
        threshold (float, optional): Of the probability, for logits of a
            single channel. Defaults to None: the largest logit wins.

    Returns:
        Tensor: Classes, shape (N, H, W), uint8, int64 if there are more than
        256.

    Raises:
        ValueError: If there is no scale at all.
    """
    logits = fused_logits(scale_outputs, input_size, align_corners)
    dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int64
    return decide(logits, dtype, threshold).classes
