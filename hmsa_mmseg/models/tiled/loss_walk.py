"""A loss of logits that come in tiles of rows, and its gradient.

Between forward and backward pass nothing is kept but the small maps that the
logits are made of: tiles are made once in each.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile.
"""

from __future__ import annotations

import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..utils.execution import no_autocast
from .logit_rows import LogitRows

# mmseg adds it to divisors (models/losses/utils.py, accuracy.py).
EPS = torch.finfo(torch.float32).eps


class TileLoss(metaclass=ABCMeta):
    """A loss of logits (N, K, H, W), shown in tiles from the top down.

    Without gradients :meth:`value` is called for all tiles, then :meth:`rest`;
    then, if it is wanted, :meth:`gradient` for all tiles, which may call
    :meth:`value` again.

    Attributes:
        pool (int): Tiles are cut as :func:`row_tiles` does with it.
        offset (int): Likewise.
    """

    pool, offset = 1, 0

    @abstractmethod
    def value(self, tile: Tensor, rows: slice) -> Tensor:
        """Compute the part of a tile, a scalar, float64.

        The logits (N, K, R, W) of these rows are not to be written to.
        """

    def rest(self, need_grad: bool) -> Tensor | float:
        """Compute what all tiles together add to the loss."""
        return 0.0

    def gradient(self, tile: Tensor, rows: slice) -> Tensor:
        """Compute the gradient of the whole loss at a tile, (N, K, R, W)."""
        tile = tile.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(tile, rows)
        return torch.autograd.grad(value, tile)[0]


class Accuracy:
    """Share of the labelled pixels whose highest logit is their label's."""

    def __init__(self, label: Tensor, ignore_index: int) -> None:
        self.label = label
        self.has_label = label != ignore_index
        self.correct: Tensor | float = 0.0

    def add(self, tile: Tensor, rows: slice) -> None:
        """Count the pixels of a tile, logits (N, K, R, W)."""
        right = tile.max(dim=1).indices == self.label[:, rows]
        right &= self.has_label[:, rows]
        self.correct = right.sum(dtype=torch.float64) + self.correct

    def percent(self) -> Tensor:
        """The accuracy in percent as mmseg's ``accuracy``, (1,), float32."""
        count = self.has_label.sum(dtype=torch.float64)
        share = (self.correct + EPS) / (count + EPS)
        return (100 * share).float()[None]


def loss_in_tiles(
    loss: TileLoss, logits: LogitRows, accuracy: Accuracy | None = None
) -> Tensor:
    """Compute a loss, which is used up, in tiles of rows; differentiable once.

    A scalar of the type of the logits; ``accuracy`` is shown all tiles.
    """
    function = _TiledLoss.apply
    dynamo = sys.modules.get('torch._dynamo')  # slow to import, rarely there
    if dynamo is not None:
        # It would unroll the loops over tiles, and gives a wrong sum of them
        # (torch 2.13).
        function = dynamo.disable(function)
    return function(loss, logits, accuracy, *logits.maps)


class _TiledLoss(Function):
    """A loss as a function of the maps that logits are made of."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: TileLoss,
        logits: LogitRows,
        accuracy: Accuracy | None,
        *maps: Tensor,
    ) -> Tensor:
        """Return the loss."""
        values = []
        with no_autocast(logits.device):
            for rows in logits.tiles(loss.pool, loss.offset):
                tile = logits.rows(rows)
                if accuracy is not None:
                    accuracy.add(tile, rows)
                values.append(loss.value(tile, rows))
            values.append(loss.rest(any(ctx.needs_input_grad)))
            value = sum(filter(torch.is_tensor, values[1:]), values[0])
        ctx.loss, ctx.logits = loss, copy(logits)
        # Saved below, and gone with the graph.
        ctx.logits.maps = ()
        value = value.to(logits.dtype)
        ctx.save_for_backward(value, *maps)
        return value

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Add up the gradients of all tiles."""
        if torch.is_grad_enabled():
            # `once_differentiable` would take what it cannot see for constant.
            raise RuntimeError(
                'the gradient of a loss in tiles cannot be differentiated: '
                'expected backward without create_graph=True'
            )
        value, *maps = ctx.saved_tensors
        # NaN if the loss is not finite: a GradScaler looks at gradients alone.
        scale = torch.add(grad_loss, value, alpha=0)
        wanted = ctx.needs_input_grad[3:]
        tiles = ctx.logits.tiles(ctx.loss.pool, ctx.loss.offset)
        args = ctx.loss, ctx.logits, maps, scale, wanted
        with no_autocast(grad_loss.device):
            if len(tiles) == 1:
                found = _gradients(tiles[0], *args)
                grads = [None if x is None else x[1] for x in found]
            else:
                grads = [
                    torch.zeros_like(x) if is_wanted else None
                    for x, is_wanted in zip(maps, wanted)
                ]
                for rows in tiles:
                    found = _gradients(rows, *args)
                    for total, x in zip(grads, found):
                        if x is not None:
                            total[:, :, x[0]] += x[1]
        return None, None, None, *grads


def _gradients(
    rows: slice,
    loss: TileLoss,
    logits: LogitRows,
    maps: Sequence[Tensor],
    scale: Tensor,
    wanted: Sequence[bool],
) -> list[tuple[slice, Tensor] | None]:
    """Make a tile; of each map its rows and their gradient, times ``scale``.

    None where none is wanted.
    """
    leaves: dict[int, tuple[slice, Tensor]] = {}

    def take(i: int, part: slice) -> Tensor:
        if not torch.is_grad_enabled():  # made again
            return maps[i][:, :, part]
        leaf = maps[i][:, :, part].detach()
        if wanted[i]:
            leaves[i] = part, leaf.requires_grad_()
        return leaf

    with torch.enable_grad():
        tile = logits.make(rows, take)
        grad = loss.gradient(tile.detach(), rows).mul_(scale)
        root = _Gradient.apply(tile, grad)
    # Memory that the gradients of the maps need.
    del tile, grad
    parts, inputs = zip(*leaves.values())
    found = torch.autograd.grad(root, inputs, root.detach())
    pairs = dict(zip(leaves, zip(parts, found)))
    return [pairs.get(i) for i in range(len(maps))]


class _Gradient(Function):
    """Stands for a value whose gradient at a tile is known."""

    @staticmethod
    def forward(ctx: Any, tile: Tensor, grad: Tensor) -> Tensor:
        """Of no elements."""
        ctx.grad = grad
        return grad.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        """Return the gradient, and keep it no longer."""
        grad, ctx.grad = ctx.grad, None
        return grad, None
