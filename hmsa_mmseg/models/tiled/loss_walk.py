"""A loss of logits that come in tiles of rows, and its gradient.

The backward pass only multiplies by the gradient of the loss, so the forward
pass computes the gradient already: each tile is made of the small maps that
the heads give, and its gradient goes back to them at once.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor, nn
from torch.autograd import Function

from ..losses import ClassWeightedCrossEntropyLoss, RMILoss
from ..losses.rmi_lean import RMITiles
from ..utils import no_autocast, refuse_create_graph, scaled_or_nan
from .logit_rows import LogitRows

# mmseg adds it to divisors (models/losses/utils.py, accuracy.py).
EPS = torch.finfo(torch.float32).eps


def loss_in_tiles(
    module: nn.Module,
    logits: LogitRows,
    label: Tensor,
    ignore_index: int,
    accuracy: Accuracy | None = None,
) -> Tensor:
    """Compute a loss in tiles of rows; differentiable once.

    Args:
        module (nn.Module): An :class:`RMILoss`, mmseg's ``CrossEntropyLoss``
            with a softmax, the mean and no weights, or a
            :class:`ClassWeightedCrossEntropyLoss`.
        logits (LogitRows): Shape (N, K, H, W), float32 or float64.
        label (Tensor): Classes or ``ignore_index``, (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.
        accuracy (Accuracy, optional): Shown all tiles. Defaults to None.

    Returns:
        Tensor: The loss with its weight, a scalar.
    """
    function = _TiledLoss.apply
    dynamo = sys.modules.get('torch._dynamo')  # slow to import, rarely there
    if dynamo is not None:
        # It would unroll the loops over tiles, and gives a wrong sum of them
        # (torch 2.13).
        function = dynamo.disable(function)
    value = function(
        module, logits, label, ignore_index, accuracy, *logits.maps
    )
    return module.loss_weight * value


class _TiledLoss(Function):
    """A loss of all maps; its gradient is computed together with it."""

    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        logits: LogitRows,
        label: Tensor,
        ignore_index: int,
        accuracy: Accuracy | None,
        *maps: Tensor,
    ) -> Tensor:
        """Return the loss, a scalar of the type of the maps."""
        ctx.wanted = ctx.needs_input_grad[5:]
        grads = [
            torch.zeros_like(x) if wanted else None
            for x, wanted in zip(maps, ctx.wanted)
        ]
        with no_autocast(label.device):
            logits = logits.with_maps([x.detach() for x in maps])
            value = 0
            if isinstance(module, RMILoss):
                label = module.labels_for(logits.shape, label, ignore_index)
                tile_loss = RMITiles(
                    label, logits.shape[1], logits.dtype, module.with_rmi
                )
                tiles = tile_loss.tiles()
                value = tile_loss.rmi_term(logits.rows, any(ctx.wanted))
            else:
                tile_loss = _CrossEntropyTiles(
                    module, logits, label, ignore_index
                )
                tiles = logits.tiles()
            for rows in tiles:
                value = value + _walk_tile(
                    logits, rows, tile_loss, accuracy, grads
                )
        ctx.save_for_backward(value, *(g for g in grads if g is not None))
        return value.to(maps[0].dtype)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients by that of the loss."""
        refuse_create_graph('a loss in tiles')
        value, *grads = ctx.saved_tensors
        grad_loss = scaled_or_nan(grad_loss, value)
        grads = iter(grads)
        found = (next(grads) * grad_loss if w else None for w in ctx.wanted)
        return (None,) * 5 + tuple(found)


def _walk_tile(
    logits: LogitRows,
    rows: slice,
    tile_loss: RMITiles | _CrossEntropyTiles,
    accuracy: Accuracy | None,
    grads: Sequence[Tensor | None],
) -> Tensor:
    """Make a tile, and add its gradient to those of the maps.

    Args:
        logits (LogitRows): What to make it of.
        rows (slice): Which rows.
        tile_loss (RMITiles | _CrossEntropyTiles): The loss.
        accuracy (Accuracy, optional): Counts the tile too.
        grads (Sequence[Tensor | None]): For each map the gradient to add to,
            None where it is not wanted.

    Returns:
        Tensor: The tile's part of the loss, a scalar.
    """
    sources = logits.sources(rows)
    parts = logits.parts(sources)
    wanted = [i for i, grad in enumerate(grads) if grad is not None]
    with torch.set_grad_enabled(bool(wanted)):
        for i in wanted:
            # A view of its own, of which autograd keeps the gradient apart.
            parts[i] = parts[i].detach().requires_grad_()
        tile = logits.compute(parts, rows)
    if accuracy is not None:
        accuracy.add(tile.detach(), rows)
    value = tile_loss.value(tile.detach(), rows)
    if wanted:
        grad = tile_loss.gradient(tile.detach(), rows)
        leaves = [parts[i] for i in wanted]
        for i, found in zip(wanted, torch.autograd.grad(tile, leaves, grad)):
            grads[i][:, :, sources[i]] += found
    return value


class _CrossEntropyTiles:
    """Softmax cross-entropy in tiles, as :class:`RMITiles`.

    Args:
        module (CrossEntropyLoss): The loss, whose weight is left to the
            caller; with the reduction 'mean'.
        logits (LogitRows): Of which tiles will be made.
        label (Tensor): Classes or ``ignore_index``, (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.
    """

    def __init__(
        self,
        module: CrossEntropyLoss,
        logits: LogitRows,
        label: Tensor,
        ignore_index: int,
    ) -> None:
        has_label = label != ignore_index
        self.index = label.where(has_label, 0)[:, None]
        self.weight = has_label.to(logits.dtype)
        is_weighted = isinstance(module, ClassWeightedCrossEntropyLoss)
        if is_weighted:
            class_weight = self.weight.new_tensor(module.class_weight)
            self.weight *= class_weight[self.index[:, 0]]
        count = self.weight.sum(dtype=torch.float64)
        if not (is_weighted or module.avg_non_ignore):
            count = torch.full_like(count, label.numel())
        self.weight = (self.weight / (count + EPS))[:, None]

    def value(self, logits: Tensor, rows: slice) -> Tensor:
        """Compute the part of a tile (N, K, R, W), a scalar, float64."""
        entropy = logits.logsumexp(dim=1, keepdim=True)
        entropy = entropy - logits.gather(1, self.index[:, :, rows])
        # Of pixels without a label nothing counts, infinite or not.
        weight = self.weight[:, :, rows]
        entropy = entropy.where(weight > 0, 0) * weight
        return entropy.sum(dtype=torch.float64)

    def gradient(self, logits: Tensor, rows: slice) -> Tensor:
        """Compute the gradient of the loss at a tile, (N, K, R, W)."""
        weight = self.weight[:, :, rows]
        grad = logits.softmax(dim=1).mul_(weight)
        return grad.scatter_add_(1, self.index[:, :, rows], -weight)


class Accuracy:
    """Share of the labelled pixels whose highest logit is their label's.

    Args:
        label (Tensor): Classes or ``ignore_index``, (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.
    """

    def __init__(self, label: Tensor, ignore_index: int) -> None:
        self.label = label
        self.has_label = label != ignore_index
        self.correct = label.new_zeros(())

    def add(self, logits: Tensor, rows: slice) -> None:
        """Count the pixels of a tile, logits (N, K, R, W)."""
        right = logits.max(dim=1).indices == self.label[:, rows]
        self.correct += (right & self.has_label[:, rows]).sum()

    def percent(self) -> Tensor:
        """The accuracy in percent as mmseg's ``accuracy``, (1,), float32."""
        count = self.has_label.sum()
        share = (self.correct.double() + EPS) / (count.double() + EPS)
        return (100 * share).float()[None]
