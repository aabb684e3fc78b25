"""Some rows of a bilinear resize as two products of matrices.

What :func:`.row_resize.resize_rows` computes. A resize is linear in each
direction: rows are mixed by a small matrix, columns by the narrow matrices of
:mod:`.resize_bands`, and the gradient takes the transposed ones. On a
processor this is several times faster than torch's backward of a resize,
which goes through the pixels one by one.

Shape shorthand in this module:
    h, w: size of the source, H, W: size of the result, k: source rows at
    hand, R: rows of the result asked for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..scale_fusion import Size
from .resize_bands import resize_bands
from .row_resize import bilinear_taps

# Columns of the result for one matrix: fewer are more products, more are
# more zeros in them.
_TILE = 64


def resize_rows_by_matrices(
    x: Tensor,
    source: slice,
    size: Size,
    rows: slice,
    out_size: Size,
    align_corners: bool,
) -> Tensor:
    """Compute some rows of ``F.interpolate(..., mode='bilinear')``.

    Differentiable once. A value that is not finite spreads over the rows.

    Args:
        x (Tensor): Rows ``source`` of the map, shape (1, C, k, w), float32
            or float64.
        source (slice): Which rows these are, at least those of
            :func:`.row_resize.source_rows`.
        size (tuple[int, int]): h and w, the size of the whole map.
        rows (slice): Rows of the result, not empty.
        out_size (tuple[int, int]): Size (H, W) of the whole result.
        align_corners (bool): As in ``F.interpolate``.

    Returns:
        Tensor: Shape (1, C, R, W); may be a view of ``x``.
    """
    (height, width), (out_height, out_width) = size, out_size
    row_matrix, columns = None, ()
    if height == out_height:
        x = x[:, :, rows.start - source.start : rows.stop - source.start]
    else:
        row_matrix = _row_matrix(
            (source.start, source.stop),
            height,
            (rows.start, rows.stop),
            out_height,
            align_corners,
            x.dtype,
        )
    if width != out_width:
        columns = _column_matrices(width, out_width, align_corners, x.dtype)
    if row_matrix is None and not columns:
        return x
    return _Resize.apply(x, row_matrix, columns, out_width)


@lru_cache(maxsize=4096)
def _row_matrix(
    source: tuple[int, int],
    height: int,
    rows: tuple[int, int],
    out_height: int,
    align_corners: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Weights of source rows in rows of the result, shape (R, k)."""
    index = torch.arange(*rows)
    lower, upper, share = bilinear_taps(
        index, height, out_height, align_corners, dtype
    )
    matrix = torch.zeros(len(index), source[1] - source[0], dtype=dtype)
    for position, weight in ((lower, 1 - share), (upper, share)):
        column = (position - source[0])[:, None]
        matrix.scatter_add_(1, column, weight[:, None])
    return matrix


class _Columns(NamedTuple):
    """Some columns of the result.

    Attributes:
        source (slice): Columns of the source that they depend on.
        columns (slice): Which columns of the result they are.
        weights (Tensor): Shape (columns of the source, of the result).
    """

    source: slice
    columns: slice
    weights: Tensor


@lru_cache(maxsize=64)
def _column_matrices(
    width: int, out_width: int, align_corners: bool, dtype: torch.dtype
) -> tuple[_Columns, ...]:
    """Cut the resize of rows of length w to W into narrow products."""
    bands = resize_bands(
        width, out_width, 1, _TILE, align_corners, dtype, torch.device('cpu')
    )
    found = []
    for i, start in enumerate(bands.starts):
        columns = slice(i * _TILE, min((i + 1) * _TILE, out_width))
        weights = bands.matrices[i, : columns.stop - columns.start, :, 0]
        source = slice(start, start + bands.width)
        found.append(_Columns(source, columns, weights.t().contiguous()))
    return tuple(found)


class _Resize(Function):
    """Rows by a matrix, columns by several; the cheaper of the two orders."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        row_matrix: Tensor | None,
        columns: tuple[_Columns, ...],
        out_width: int,
    ) -> Tensor:
        """Resize x, shape (1, C, k, w), to (1, C, R, out_width)."""
        # Columns first where rows become more.
        columns_first = row_matrix is None or (
            row_matrix.shape[0] > row_matrix.shape[1]
        )
        ctx.args = x.shape[3], row_matrix, columns, columns_first
        if columns and columns_first:
            x = _resize_columns(x, columns, out_width)
        if row_matrix is not None:
            x = torch.matmul(row_matrix, x)
        if columns and not columns_first:
            x = _resize_columns(x, columns, out_width)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Apply the transposed matrices in the reverse order."""
        width, row_matrix, columns, columns_first = ctx.args
        if columns and not columns_first:
            grad = _resize_columns_back(grad, columns, width)
        if row_matrix is not None:
            grad = torch.matmul(row_matrix.t(), grad)
        if columns and columns_first:
            grad = _resize_columns_back(grad, columns, width)
        return grad, None, None, None


def _resize_columns(
    x: Tensor, columns: tuple[_Columns, ...], out_width: int
) -> Tensor:
    flat = x.reshape(-1, x.shape[3])
    out = flat.new_empty(len(flat), out_width)
    for part in columns:
        target = out[:, part.columns]
        torch.mm(flat[:, part.source], part.weights, out=target)
    return out.view(*x.shape[:3], out_width)


def _resize_columns_back(
    grad: Tensor, columns: tuple[_Columns, ...], width: int
) -> Tensor:
    flat = grad.reshape(-1, grad.shape[3])
    out = flat.new_zeros(len(flat), width)
    for part in columns:
        # The columns of neighbouring parts overlap in the source.
        target = out[:, part.source]
        target.addmm_(flat[:, part.columns], part.weights.t())
    return out.view(*grad.shape[:3], width)
