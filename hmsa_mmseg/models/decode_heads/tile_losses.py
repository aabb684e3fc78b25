"""Losses of fused logits that are never made as a whole.

What a seg head's ``loss_by_feat`` gives, for the losses that can be computed
in tiles (:mod:`..tiled.loss_walk`): mmseg's softmax cross-entropy and those of
this package. All else gets whole logits.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Union

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..losses import ClassWeightedCrossEntropyLoss, RMILoss
from ..losses.class_weighted_cross_entropy import class_weights
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..tiled.loss_walk import EPS, Accuracy, TileLoss, loss_in_tiles
from ..utils.execution import has_float64, is_tracing, is_untouched

#: CombinedOutput of a seg head, combined over scales, or what to make it of.
CombinedOutput = Union[LogitRows, Tensor, tuple]


def losses_of_head(
    head: nn.Module, output: CombinedOutput, batch_data_samples: SampleList
) -> dict[str, Tensor]:
    """Compute the losses of a seg head, in tiles of rows where possible.

    What ``head.loss_by_feat`` gives for whole logits.
    """
    is_map = isinstance(output, Tensor) and output.dim() == 4
    if is_map and not is_tracing():
        output = WholeLogits(output)
    if not _is_in_tiles(head, output):
        return head.loss_by_feat(make_whole(output), batch_data_samples)
    label = head._stack_batch_gt(batch_data_samples)
    if label.shape[2:] != output.shape[2:]:  # mmseg resizes the logits.
        _log_once('labels of another size than the images')
        return head.loss_by_feat(make_whole(output), batch_data_samples)
    label = label.squeeze(1)
    accuracy = Accuracy(label, head.ignore_index)
    losses: dict[str, Tensor] = {}
    for i, module in enumerate(_losses_of(head)):
        seen_by = None if i else accuracy
        value = _loss(module, output, label, head.ignore_index, seen_by)
        key = module.loss_name
        losses[key] = losses[key] + value if key in losses else value
    return {**losses, 'acc_seg': accuracy.percent()}


def loss_of_logits(
    module: nn.Module, logits: LogitRows, label: Tensor, ignore_index: int
) -> Tensor:
    """Compute one loss of one map (N, K, H, W), in tiles where possible.

    What the loss gives for whole logits; labels are (N, H, W), int64.
    """
    reason = _why_not(module, logits)
    if reason is None:
        return _loss(module, logits, label, ignore_index)
    _log_once(reason)
    return module(logits.all_rows(), label, ignore_index=ignore_index)


def make_whole(output: CombinedOutput) -> Tensor | tuple:
    """Make whole logits of all that are yet to be made; differentiable."""
    if isinstance(output, LogitRows):
        return output.all_rows()
    if isinstance(output, tuple):
        return tuple(make_whole(leaf) for leaf in output)
    return output


def _is_in_tiles(head: nn.Module, output: CombinedOutput) -> bool:
    """Whether to compute losses in tiles; says why not, if not."""
    leaves = output if isinstance(output, tuple) else (output,)
    if not any(isinstance(leaf, LogitRows) for leaf in leaves):
        return False  # Made already, or without pixels.
    name = type(head).__name__
    method = getattr(head.loss_by_feat, '__func__', None)
    if method is not BaseDecodeHead.loss_by_feat or isinstance(output, tuple):
        reason = f'{name}, which has a loss or outputs of its own'
    elif head.sampler is not None:
        reason = f'the sampler {type(head.sampler).__name__}'
    else:
        reasons = (_why_not(module, output) for module in _losses_of(head))
        reason = next(filter(None, reasons), None)
    if reason is not None:
        _log_once(reason)
    return reason is None


def _losses_of(head: nn.Module) -> list[nn.Module]:
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def _why_not(module: nn.Module, logits: LogitRows) -> str | None:
    """Say why a loss needs whole logits; None if it does not."""
    name = type(module).__name__
    if not has_float64(logits.device):
        return f'logits on a device of type {logits.device.type}'
    if not is_untouched(module):
        return f'{name} with hooks or another forward'
    if type(module) in (RMILoss, ClassWeightedCrossEntropyLoss):
        return None
    if type(module) is not CrossEntropyLoss:
        return name
    if module.use_sigmoid or module.use_mask:
        return f'{name} with a sigmoid or masks'
    if module.reduction != 'mean' or module.class_weight is not None:
        return f'{name} with class_weight or a reduction other than mean'
    return None


def _loss(
    module: nn.Module,
    logits: LogitRows,
    label: Tensor,
    ignore_index: int,
    accuracy: Accuracy | None = None,
) -> Tensor:
    """Compute a loss in tiles, with its weight."""
    if isinstance(module, RMILoss):
        label = module.labels_for(logits.shape, label, ignore_index)
        loss = module.tile_loss(logits, label)
    else:
        loss = _CrossEntropy(module, logits, label, ignore_index)
    return module.loss_weight * loss_in_tiles(loss, logits, accuracy)


class _CrossEntropy(TileLoss):
    """Softmax cross-entropy of mmseg without its weight, reduction 'mean'."""

    def __init__(
        self,
        module: CrossEntropyLoss,
        logits: LogitRows,
        label: Tensor,
        ignore_index: int,
    ) -> None:
        self.label = label
        self.kwargs = dict(ignore_index=ignore_index, reduction='none')
        count = label.numel()
        if isinstance(module, ClassWeightedCrossEntropyLoss):
            weight = class_weights(module, logits)
            self.kwargs['weight'] = weight
            has_label = label != ignore_index
            count = weight[label.where(has_label, 0)] * has_label
            count = count.sum(dtype=torch.float64)
        elif module.avg_non_ignore:
            count = (label != ignore_index).sum(dtype=torch.float64)
        self.divisor = count + EPS

    def value(self, tile: Tensor, rows: slice) -> Tensor:
        """Compute the part of a tile."""
        losses = F.cross_entropy(tile, self.label[:, rows], **self.kwargs)
        return losses.sum(dtype=torch.float64) / self.divisor

    def gradient(self, tile: Tensor, rows: slice) -> Tensor:
        """Compute it in one map of the tile's size, unlike autograd."""
        label = self.label[:, None, rows]
        has_label = label != self.kwargs['ignore_index']
        index = label.where(has_label, 0)
        share = has_label.to(tile.dtype) / self.divisor
        if 'weight' in self.kwargs:
            share *= self.kwargs['weight'][index]
        return tile.softmax(dim=1).mul_(share).scatter_add_(1, index, -share)


@lru_cache
def _log_once(reason: str) -> None:
    print_log(
        'losses that are computed from logits of full size, which takes '
        f'more time and memory: {reason}',
        logger='current',
        level=logging.WARNING,
    )
