"""Prediction from the maps of all scales, in tiles of rows.

Nothing of the size of the image is made but what is asked for: whole logits,
or the classes alone.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..scale_fusion import fuse_scales, in_float32
from .row_fusion import RowFusion
from .tiles import row_tiles
from .tracing import is_tracing


def _fused_tiles(
    scale_outputs: Sequence[tuple[float, Tensor, Tensor | None]],
    input_size: Sequence[int],
    align_corners: bool,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of each tile and its fused logits."""
    scales, logits, attns = zip(*scale_outputs)
    fusion = RowFusion(
        scales, [x.shape[2:] for x in logits], input_size, align_corners
    )
    first = logits[0]
    channels = first.shape[0] * first.shape[1]
    row_bytes = channels * input_size[1] * first.element_size()
    for rows in row_tiles(input_size[0], row_bytes, first.device):
        sources = fusion.source_rows(rows)
        yield (
            rows,
            fusion.rows(
                [x[:, :, source] for x, source in zip(logits, sources)],
                [
                    None if attn is None else attn[:, :, source]
                    for attn, source in zip(attns, sources)
                ],
                rows,
            ),
        )


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
    outputs = _collect(scale_outputs)
    if not _fit(outputs):
        return fuse_scales(outputs, input_size, align_corners)
    logits = outputs[0][1]
    fused = logits.new_empty(*logits.shape[:2], *input_size)
    for rows, tile in _fused_tiles(outputs, input_size, align_corners):
        fused[:, :, rows] = tile
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
    outputs = _collect(scale_outputs)
    if not _fit(outputs):
        fused = fuse_scales(outputs, input_size, align_corners)
        tiles = [(slice(0, input_size[0]), fused)]
    else:
        tiles = _fused_tiles(outputs, input_size, align_corners)
    logits = outputs[0][1]
    dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int64
    classes = logits.new_empty(len(logits), *input_size, dtype=dtype)
    with torch.no_grad():
        for rows, tile in tiles:
            classes[:, rows] = classes_of(tile, threshold)
    return classes


def classes_of(seg_logits: Tensor, threshold: float | None) -> Tensor:
    """Classes of logits, as mmseg's ``postprocess_result`` decides them.

    Args:
        seg_logits (Tensor): Shape (N, K, H, W).
        threshold (float, optional): Of the probability, read if K is 1;
            without one the only channel is the only class.

    Returns:
        Tensor: Shape (N, H, W), of an integer type or, if K is 1, bool.
    """
    if seg_logits.shape[1] == 1 and threshold is not None:
        return seg_logits.sigmoid()[:, 0] > threshold
    num_classes = seg_logits.shape[1]
    is_on_cpu = seg_logits.device.type == 'cpu'
    if not is_on_cpu or num_classes > 255 or is_tracing():
        return seg_logits.argmax(dim=1)
    # torch.argmax over channels does not vectorise on the CPU: this takes a
    # tenth of its time. The first channel that holds the largest value has
    # the largest number; NaN is below nothing, and gives class 0.
    below = seg_logits < seg_logits.amax(dim=1, keepdim=True)
    numbers = torch.arange(num_classes, 0, -1, dtype=torch.uint8)
    is_largest = below.logical_not_().view(torch.uint8)
    largest = is_largest.mul_(numbers.view(-1, 1, 1)).amax(dim=1)
    return num_classes - largest
