"""What the coarse levels of a pyramid add to a convolution of all levels.

A convolution of an enlarged map is a sum over its taps::

    conv(up(x)) = sum_taps shift_tap(up(conv1x1_tap(x)))

``up`` acts on pixels and ``conv1x1`` on channels: they commute. A shift
fills with zeros, as the convolution pads. Of a map with f times fewer rows
and columns the products take f^2 times fewer operations. Shifts, enlarging
and sums are separable, and run as products with the narrow matrices of
:mod:`.resize_bands`, one tile after the other, while the tile is in the
cache.

Shape shorthand in this module:
    N: batch, C: channels of a level, O: channels of the result, k: kernel
    size, H, W: size of the result, R: its rows at hand, t, u: rows and columns
    of a tile of it, h, w: size of a level, r, s: rows and columns of it at
    hand, b, d: those that a tile depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .pointwise import (
    add_pointwise_gradients,
    channels_last,
    convolved,
    pointwise,
)
from .resize_bands import Bands, resize_bands
from .tiles import alike, kind_of

#: Rows and columns of a tile: its sums, 512 channels wide, stay in a
#: processor's cache, and its bands are narrow. To a GPU the start of a product
#: is dearer than the zeros in wide bands.
TILE_SIZES = {'cpu': (16, 16), 'cuda': (128, 256)}
#: Rows and columns for which products are kept, multiples of a tile's: 120 MB
#: for the 3x3 convolution of HRNet-W48 to 512 channels. Neighbouring chunks
#: have two or three rows and columns of each level in common, which are
#: computed twice.
CHUNK_SIZES = {'cpu': (64, 256), 'cuda': (128, 512)}


def row_chunks(x: Tensor) -> Iterator[slice]:
    """Yield the rows of a map (N, C, H, W) that are computed at once."""
    height, step = x.shape[2], CHUNK_SIZES[kind_of(x.device)][0]
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


class _Chunk(NamedTuple):
    """A part of one image of the result, and what it depends on.

    Attributes:
        image (int): Which image.
        tile (tuple[int, int]): Row and column of its first tile.
        pixels (Tensor): The part itself, a view, shape (R, at hand, O).
        windows (list[tuple[slice, slice]]): Rows and columns of each level.
    """

    image: int
    tile: tuple[int, int]
    pixels: Tensor
    windows: list[tuple[slice, slice]]


class CoarseLevels:
    """Levels, their part of a kernel, and what they add to the result.

    Args:
        levels (Sequence[Tensor]): Shape (N, C, h, w) each.
        weights (Sequence[Tensor]): Their part of the kernel, (O, C, k, k),
            k odd.
        size (Sequence[int]): H and W.
        align_corners (bool): As in ``F.interpolate``.
    """

    def __init__(
        self,
        levels: Sequence[Tensor],
        weights: Sequence[Tensor],
        size: Sequence[int],
        align_corners: bool,
    ) -> None:
        first = levels[0]
        self.out_channels, _, self.kernel_size, _ = weights[0].shape
        self.size = tuple(size)
        self.levels = [channels_last(x) for x in levels]
        self.kernels = [self._split(weight) for weight in weights]
        # A tile larger than the result would only be wider than it.
        tile = TILE_SIZES[kind_of(first.device)]
        self.tile = tuple(map(min, tile, self.size))

        def bands(axis: int) -> list[Bands]:
            return [
                resize_bands(
                    x.shape[2 + axis],
                    self.size[axis],
                    self.kernel_size,
                    self.tile[axis],
                    align_corners,
                    first.dtype,
                    first.device,
                )
                for x in levels
            ]

        self.row_bands, self.col_bands = bands(0), bands(1)
        # All blocks of a tile in one matrix: (tiles, t, sum of b).
        self.row_matrices = torch.cat(
            [b.matrices.transpose(2, 3).flatten(2) for b in self.row_bands],
            dim=2,
        )
        # (tiles, u, d * k)
        self.col_matrices = [b.matrices.flatten(2) for b in self.col_bands]

    def _split(self, weight: Tensor) -> list[Tensor]:
        """Make a 1x1 kernel (k * O, C, 1, 1) of each row of taps.

        For each pixel it gives (tap within the row, O), which together with
        the pixels beside it is the right side of a matrix product.
        """
        rows = weight.permute(2, 3, 0, 1)
        return [taps.flatten(0, 1)[..., None, None] for taps in rows]

    def join(self, kernels: Sequence[Tensor]) -> Tensor:
        """Make one weight (O, C, k, k) of kernels, the reverse of a split."""
        k, channels = self.kernel_size, self.out_channels
        rows = [x.flatten(1).view(k, channels, -1) for x in kernels]
        return torch.stack(rows).permute(2, 3, 0, 1).contiguous()

    def add_rows(self, out: Tensor, rows: slice) -> None:
        """Add what the levels contribute to some rows.

        Args:
            out (Tensor): Changed in place, shape (N, O, R, W), all of a
                channels_last map or rows of it.
            rows (slice): Which rows of the result these are: one of
                :func:`row_chunks`.
        """
        height, channels = self.row_matrices.shape[2], self.out_channels
        buffer = out.new_empty(height * self.tile[1] * channels)
        for chunk in self._chunks(out, rows):
            products = [
                [self._product(x, kernel) for kernel in kernels]
                for x, kernels in zip(self._parts(chunk), self.kernels)
            ]
            for y, x, tile in alike(self._tiles(chunk)):
                num_rows, num_cols, _ = tile.shape
                # Enlarged along the columns only: (sum of b, u, O).
                sums = buffer[: height * num_cols * channels]
                sums = sums.view(height, num_cols, channels)
                for part, level, source in self._blocks(y, x, chunk, products):
                    matrix = self.col_matrices[level][x, :num_cols]
                    matrix = matrix.expand(len(source), -1, -1)
                    torch.bmm(matrix, source, out=sums[part])
                tile = tile.view(num_rows, -1)
                matrix = self.row_matrices[y, :num_rows]
                torch.addmm(tile, matrix, sums.flatten(1), out=tile)

    def add_gradients(
        self,
        grad: Tensor,
        rows: slice,
        level_grads: Sequence[Tensor | None],
        kernel_grads: Sequence[Sequence[Tensor | None]],
    ) -> None:
        """Do what the backward pass of :meth:`add_rows` does.

        Args:
            grad (Tensor): Of the result, shape (N, O, R, W), rows of a
                channels_last map.
            rows (slice): Which rows these are: one of :func:`row_chunks`.
            level_grads (Sequence[Tensor | None]): To the gradient of each
                level, (N, C, h, w), the share of these rows is added in
                place; None where it is not wanted.
            kernel_grads (Sequence[Sequence[Tensor | None]]): Likewise for
                ``kernels``.
        """
        k, channels = self.kernel_size, self.out_channels
        for chunk in self._chunks(grad, rows):
            parts = self._parts(chunk)
            products = [
                [
                    grad.new_zeros(x.shape[2], x.shape[3] * k, channels)
                    for _ in range(k)
                ]
                for x in parts
            ]
            for y, x, tile in alike(self._tiles(chunk)):
                num_rows, num_cols, _ = tile.shape
                matrix = self.row_matrices[y, :num_rows].t()
                sums = matrix.mm(tile.reshape(num_rows, -1))
                sums = sums.view(-1, num_cols, channels)
                for part, level, target in self._blocks(y, x, chunk, products):
                    matrix = self.col_matrices[level][x, :num_cols].t()
                    matrix = matrix.expand(len(target), -1, -1)
                    target += matrix.bmm(sums[part])
            n = slice(chunk.image, chunk.image + 1)
            for level, (x, window) in enumerate(zip(parts, chunk.windows)):
                level_grad = level_grads[level]
                if level_grad is not None:
                    level_grad = level_grad[(n, slice(None), *window)]
                for tap, product in enumerate(products[level]):
                    add_pointwise_gradients(
                        product.view(1, *x.shape[2:], -1),
                        x,
                        self.kernels[level][tap],
                        level_grad,
                        kernel_grads[level][tap],
                    )

    def _chunks(self, out: Tensor, rows: slice) -> Iterator[_Chunk]:
        """Yield the chunks of some rows (N, O, R, W), image by image."""
        step = CHUNK_SIZES[kind_of(out.device)][1]
        for n, image in enumerate(out.permute(0, 2, 3, 1)):
            for start in range(0, self.size[1], step):
                cols = slice(start, min(start + step, self.size[1]))
                windows = [
                    (
                        self._source(row_bands, rows, self.tile[0]),
                        self._source(col_bands, cols, self.tile[1]),
                    )
                    for row_bands, col_bands in zip(
                        self.row_bands, self.col_bands
                    )
                ]
                tile = rows.start // self.tile[0], start // self.tile[1]
                yield _Chunk(n, tile, image[:, cols], windows)

    @staticmethod
    def _source(bands: Bands, extent: slice, tile: int) -> slice:
        """Rows or columns of a level that those of the result depend on."""
        first, last = extent.start // tile, (extent.stop - 1) // tile
        return slice(bands.starts[first], bands.starts[last] + bands.width)

    def _parts(self, chunk: _Chunk) -> list[Tensor]:
        """The part of each level that a chunk depends on, (1, C, r, s)."""
        n = slice(chunk.image, chunk.image + 1)
        return [
            channels_last(x[(n, slice(None), *window)])
            for x, window in zip(self.levels, chunk.windows)
        ]

    def _product(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve (1, C, r, s) with a row of taps, to (r, s * k, O)."""
        product = convolved(pointwise(x, kernel))[0].permute(1, 2, 0)
        return product.reshape(x.shape[2], -1, self.out_channels)

    def _tiles(self, chunk: _Chunk) -> Iterator[tuple[int, int, Tensor]]:
        """Yield row and column of each tile, and its pixels, (t, u, O)."""
        height, width = self.tile
        y_first, x_first = chunk.tile
        for y, strip in enumerate(chunk.pixels.split(height), y_first):
            for x, tile in enumerate(strip.split(width, dim=1), x_first):
                yield y, x, tile

    def _blocks(
        self, y: int, x: int, chunk: _Chunk, products: list[list[Tensor]]
    ) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield what goes into the sums of a tile, in the order of the sums.

        Yields:
            tuple: Rows of the sums, the level, and the part of its products
            with one row of taps that they depend on, (b, d * k, O).
        """
        begin, k = 0, self.kernel_size
        for level, (row_bands, col_bands, (rows, cols)) in enumerate(
            zip(self.row_bands, self.col_bands, chunk.windows)
        ):
            top = row_bands.starts[y] - rows.start
            left = (col_bands.starts[x] - cols.start) * k
            for product in products[level]:
                part = product[
                    top : top + row_bands.width,
                    left : left + col_bands.width * k,
                ]
                yield slice(begin, begin + len(part)), level, part
                begin += len(part)
