"""The loss of :mod:`.rmi_formula` and its gradient, in tiles of rows.

A first pass over the tiles computes the cross-entropy and pools the
probabilities. The RMI term and its slope, the gradient at the pooled
probabilities, follow from the small pooled maps. A second pass computes the
gradient of both. No one-hot labels, regions or probabilities of the size of
the logits are made.

Shape shorthand in this module:
    N: batch, C: classes, H, W: size of logits and labels, R: rows of a tile,
    h, w: size of the pooled maps, P: pairs of an image and a class.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiled.loss_walk import TileLoss
from ..utils.execution import class_dtype, costs_of, may_wait
from .rmi_formula import (
    ALPHA,
    CLIP_MIN,
    LAMBDA,
    LOG_MIN,
    PADDING,
    POOL,
    RADIUS,
    REGION,
)


class RMITiles(TileLoss):
    """Loss and gradient of logits that come in tiles of rows.

    Labels are classes in [0, C), negative where ignored, (N, H, W), int64; no
    pooling window lies in two tiles.
    """

    pool, offset = POOL, PADDING

    def __init__(
        self,
        label: Tensor,
        num_classes: int,
        dtype: torch.dtype,
        with_rmi: bool,
    ) -> None:
        # Kept for the backward pass, by each loss its own.
        self.label, self.dtype = label.to(class_dtype(num_classes)), dtype
        bce_share = LAMBDA if with_rmi else 1.0
        self.factor = bce_share / ((label >= 0).sum().to(dtype) + 1)
        self.probs = self.slope = None
        if with_rmi:
            batch, *size = label.shape
            size = (side // POOL + 1 for side in size)
            self.probs = torch.zeros(
                *(batch, num_classes, *size), dtype=dtype, device=label.device
            )

    def value(self, tile: Tensor, rows: slice) -> Tensor:
        """Compute the cross-entropy of a tile, and pool its probabilities.

        A scalar, float64; NaN if a logit is not finite.
        """
        mask, index = self._mask_and_index(rows)
        if self.probs is not None:
            self._pool(tile.sigmoid().mul_(mask), rows)
        entropy = F.softplus(tile).sum(dim=1, keepdim=True)
        entropy = (entropy - tile.gather(1, index)) * mask
        # An infinite logit need not show in the sum, nor in the gradient.
        low, high = tile.aminmax()
        value = self.factor * entropy.sum(dtype=torch.float64)
        return value + 0 * low + 0 * high

    def _pool(self, probs: Tensor, rows: slice) -> None:
        """Average the probabilities of a tile, 0 where there is no label."""
        probs = probs.add_(CLIP_MIN)
        # At the top of the map; below, it is too little for one window more.
        top = PADDING if rows.start == 0 else 0
        if top == 0 and rows.stop == self.label.shape[1]:
            probs = F.pad(probs, (0, 0, 0, PADDING))
        pooled = F.avg_pool2d(probs, POOL, padding=(top, PADDING))
        first = (rows.start + PADDING) // POOL
        self.probs[:, :, first : first + pooled.shape[2]] = pooled

    def rest(self, need_grad: bool) -> Tensor | float:
        """Compute the RMI term, with its share in the loss, and its slope."""
        if self.probs is None:
            return 0.0
        probs, self.probs = self.probs, None
        value, slope = _rmi_and_slope(
            probs.flatten(0, 1),
            _pooled_labels(self.label.long(), probs).flatten(0, 1),
            need_grad,
        )
        share = (1 - LAMBDA) / (REGION * len(probs))
        if need_grad:
            # Each pixel has 1/16 of the slope of its window.
            self.slope = slope.mul_(share / POOL**2).view_as(probs)
        return share * value

    def gradient(self, tile: Tensor, rows: slice) -> Tensor:
        """Compute the gradient of the whole loss at a tile, (N, C, R, W)."""
        mask, index = self._mask_and_index(rows)
        probs = tile.sigmoid()
        share = mask * self.factor
        if self.slope is None:
            grad = probs * share
        else:
            # p * (share + (1 - p) * slope)
            grad = self._slope_of(rows).mul_(mask).mul_(1 - probs)
            grad = grad.add_(share).mul_(probs)
        return grad.scatter_add_(1, index, -share)

    def _mask_and_index(self, rows: slice) -> tuple[Tensor, Tensor]:
        """1 where pixels count, and their class, (N, 1, R, W)."""
        label = self.label[:, None, rows].long()
        return (label >= 0).to(self.dtype), label.clamp_min(0)

    def _slope_of(self, rows: slice) -> Tensor:
        """Give each pixel what its window has, (N, C, R, W)."""
        first = (rows.start + PADDING) // POOL
        cells = self.slope[:, :, first : (rows.stop + PADDING - 1) // POOL + 1]
        x = cells[:, :, :, None, :, None]
        x = x.expand(-1, -1, -1, POOL, -1, POOL).flatten(4).flatten(2, 3)
        start = rows.start + PADDING - first * POOL
        height, width = rows.stop - rows.start, self.label.shape[2]
        x = x[:, :, start : start + height, PADDING : PADDING + width]
        # The last row or column may be in no window.
        missing = width - x.shape[3], height - x.shape[2]
        return F.pad(x, (0, missing[0], 0, missing[1])).contiguous()


def _pooled_labels(label: Tensor, like: Tensor) -> Tensor:
    """Share of each class in each window, of the shape of ``like``."""
    height, width = label.shape[1:]
    rows = (torch.arange(height, device=label.device) + PADDING) // POOL
    cols = (torch.arange(width, device=label.device) + PADDING) // POOL
    # One window more, for what lies in none.
    size = (
        (height + PADDING - 1) // POOL + 1,
        (width + PADDING - 1) // POOL + 1,
    )
    cells = rows[:, None] * size[1] + cols
    pooled = like.new_zeros(*like.shape[:2], size[0] * size[1])
    index = label.clamp_min(0) * pooled.shape[2] + cells
    share = (label >= 0).to(like.dtype) / POOL**2
    # Multiples of 1/16, whose sums are exact in any order.
    pooled.flatten(1).scatter_add_(1, index.flatten(1), share.flatten(1))
    pooled = pooled.unflatten(2, size)
    return pooled[:, :, : like.shape[2], : like.shape[3]]


def _rmi_and_slope(
    probs: Tensor, labels: Tensor, need_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum half log-determinants over all pairs; float64.

    From pooled probabilities, (P, h, w), and shares of the classes in the same
    windows: the sum, and if needed its gradient at the probabilities.
    """
    value = probs.new_zeros((), dtype=torch.float64)
    slope = torch.zeros_like(probs) if need_grad else None
    chosen = torch.arange(len(probs), device=probs.device)
    if may_wait(probs.device):
        chosen = labels.flatten(1).any(dim=1).nonzero()[:, 0]
        absent = len(probs) - len(chosen)
        value += absent * REGION * math.log(math.sqrt(ALPHA) + LOG_MIN)
    pair_bytes = 2 * REGION * probs[0].numel() * 8
    step = max(costs_of(probs.device).region_bytes // pair_bytes, 1)
    for pairs in chosen.split(step):
        maps = torch.stack((probs[pairs], labels[pairs]), dim=1).double()
        regions = maps.unfold(2, RADIUS, 1).unfold(3, RADIUS, 1)
        height, width = regions.shape[2:4]
        # (pairs, 18, regions): first probabilities, then labels
        regions = regions.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)
        regions -= regions.mean(dim=2, keepdim=True)
        cov = regions @ regions.mT
        with torch.enable_grad():
            half_logdet = _half_logdet(cov.requires_grad_(need_grad)).sum()
        value += half_logdet.detach()
        if not need_grad:
            continue
        (grad,) = torch.autograd.grad(half_logdet, cov)
        # The mean that was taken off changes nothing: rows of this product
        # have the sum 0.
        grad = (grad + grad.mT)[:, :REGION] @ regions
        grad = grad.view(-1, RADIUS, RADIUS, height, width)
        folded = torch.zeros_like(maps[:, 0])
        for y in range(RADIUS):
            for x in range(RADIUS):
                folded[:, y : y + height, x : x + width] += grad[:, y, x]
        slope[pairs] = folded.to(slope.dtype)
    return value, slope


def _half_logdet(cov: Tensor) -> Tensor:
    """Half the log-determinant of the labels' covariance given the rest, (P,).

    It is that of a Schur complement, which is the lower right corner of a
    Cholesky factor. Unlike the inverse and the difference of the formula, this
    stays accurate where probabilities and labels agree. ``cov``, (P, 18, 18),
    float64, is that of the probabilities' regions, then the labels'; NaN where
    it is not finite.
    """
    size = cov.shape[-1]
    alpha = ALPHA * torch.eye(size, dtype=cov.dtype, device=cov.device)
    # Neither an exception nor a wait for the GPU, unlike linalg.cholesky.
    factor, info = torch.linalg.cholesky_ex(cov + alpha)
    diagonal = factor.diagonal(dim1=1, dim2=2)[:, REGION:]
    values = (diagonal + LOG_MIN).log().sum(dim=1)
    return values.masked_fill(info != 0, math.nan)
