"""Rows of the fused logits, straight from the maps that the heads give.

The same function as :func:`..scale_fusion.fuse_scales`, a few rows at a time.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale, k: rows of it at hand, R: rows of the result asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..scale_fusion import Size, scaled_size
from .row_resize import resize_rows, source_rows


class RowFusion:
    """Rows of the fused logits, each from the rows that it depends on.

    Args:
        scales (Sequence[float]): Relative image sizes, highest first.
        map_sizes (Sequence[tuple]): Size (h, w) of each scale's maps.
        input_size (Sequence[int]): H and W.
        align_corners (bool): As in ``F.interpolate``.

    Raises:
        ValueError: If there is no scale, or not one map size for each.
    """

    def __init__(
        self,
        scales: Sequence[float],
        map_sizes: Sequence[Sequence[int]],
        input_size: Sequence[int],
        align_corners: bool,
    ) -> None:
        if not scales or len(scales) != len(map_sizes):
            raise ValueError(
                'RowFusion needs a map size for each of at least one scale, '
                f'got scales {scales} and map sizes {map_sizes}'
            )
        self.align_corners = align_corners
        self.input_size: Size = tuple(input_size)
        # For each scale the sizes its maps run through: that of the head's
        # output, of the image at that scale, and of the blend.
        self.paths: list[tuple[Size, ...]] = []
        # What the blend of the higher scales runs through to the next blend
        # or, after the last, to the result.
        self.links: list[tuple[Size, ...]] = []
        for scale, map_size in zip(scales, map_sizes):
            scale_size = scaled_size(input_size, scale)
            size = scale_size if scale >= 1 else self.input_size
            self.paths.append((tuple(map_size), scale_size, size))
        for (*_, size), (*_, next_size) in zip(self.paths, self.paths[1:]):
            self.links.append((size, next_size))
        self.links.append((self.paths[-1][-1], self.input_size))
        # The highest scale is not multiplied with anything on its way to the
        # first blend: one chain of resizes.
        first = shorten(self.paths[0] + self.links[0][1:], align_corners)
        self.paths[0], self.links[0] = first, first[-1:] * 2
        self._plans: dict[Size, tuple[list, list]] = {}

    def source_rows(self, rows: slice) -> list[slice]:
        """Rows of each scale's maps that rows of the result depend on."""
        return [steps[0] for steps in self._plan(rows)[0]]

    def rows(
        self,
        logits: Sequence[Tensor],
        attns: Sequence[Tensor | None],
        rows: slice,
    ) -> Tensor:
        """Compute rows of the fused logits; differentiable.

        Args:
            logits (Sequence[Tensor]): Of each scale, the rows of its logits
                that :meth:`source_rows` gives, shape (N, K, k, w), float32 or
                float64.
            attns (Sequence[Tensor | None]): Likewise its attention, in
                [0, 1], shape (N, 1, k, w); that of the first is not read.
            rows (slice): Rows of the result, not empty.

        Returns:
            Tensor: Shape (N, K, R, W).
        """
        paths, links = self._plan(rows)
        fused = None
        for i, (x, attn) in enumerate(zip(logits, attns)):
            sizes, steps = self.paths[i], paths[i]
            if i == 0:
                fused = self._resize(x, sizes, steps)
                fused = self._resize(fused, self.links[0], links[0])
                continue
            # Up to the size of the image at this scale, then the product,
            # then to the size of the blend: the order of `blend_scale`.
            attn = self._resize(attn, sizes[:2], steps[:2])
            x = attn * self._resize(x, sizes[:2], steps[:2])
            x = self._resize(x, sizes[1:], steps[1:])
            attn = self._resize(attn, sizes[1:], steps[1:])
            fused = x + (1 - attn) * fused
            fused = self._resize(fused, self.links[i], links[i])
        return fused

    def _plan(self, rows: slice) -> tuple[list, list]:
        """Rows at every size of every path and link, from the result back."""
        key = rows.start, rows.stop
        if key in self._plans:
            return self._plans[key]
        paths, links = [], []
        for path, link in zip(self.paths[::-1], self.links[::-1]):
            links.append(self._rows_of(link, rows))
            paths.append(self._rows_of(path, links[-1][0]))
            rows = links[-1][0]
        self._plans[key] = paths[::-1], links[::-1]
        return self._plans[key]

    def _rows_of(self, sizes: Sequence[Size], rows: slice) -> list[slice]:
        steps = [rows]
        for (height, _), (out_height, _) in zip(sizes[-2::-1], sizes[:0:-1]):
            steps.append(
                source_rows(steps[-1], height, out_height, self.align_corners)
            )
        return steps[::-1]

    def _resize(
        self, x: Tensor, sizes: Sequence[Size], steps: Sequence[slice]
    ) -> Tensor:
        for k in range(1, len(sizes)):
            x = resize_rows(
                x,
                steps[k - 1],
                sizes[k - 1][0],
                steps[k],
                sizes[k],
                self.align_corners,
            )
        return x


def shorten(sizes: Sequence[Size], align_corners: bool) -> tuple[Size, ...]:
    """Leave out sizes of a chain of resizes without which it is the same.

    Beside repeated sizes this is one case: enlarged by a multiple of 4 and
    then halved. Half a pixel apart, the two points that halving averages lie
    between the same two source pixels, where the enlarged map is linear, and
    their middle is the point that a single resize reads; at the borders both
    are the border's value.
    """
    chain = [sizes[0]]
    for size in sizes[1:]:
        if size == chain[-1]:
            continue
        if len(chain) > 1 and not align_corners:
            source, middle = chain[-2:]
            if all(
                m % (4 * s) == 0 and m == 2 * t
                for s, m, t in zip(source, middle, size)
            ):
                chain.pop()
        chain.append(size)
    return tuple(chain)
