"""Losses of fused logits that are never made as a whole.

What a seg head's ``loss_by_feat`` gives, for the losses that
:mod:`.loss_walk` can compute: mmseg's softmax cross-entropy and those of this
package. All else gets whole logits.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, R: rows of a tile.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Union

import torch
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..losses import ClassWeightedCrossEntropyLoss, RMILoss
from ..utils import has_float64, is_untouched
from .logit_rows import LogitRows
from .loss_walk import Accuracy, loss_in_tiles

#: Output of a seg head, combined over scales, or what to make it of.
Output = Union[LogitRows, Tensor, tuple]


def loss_by_feat(
    head: nn.Module, output: Output, batch_data_samples: SampleList
) -> dict[str, Tensor]:
    """Compute the losses of a seg head, in tiles of rows where possible.

    Args:
        head (nn.Module): A decode head of mmseg.
        output (LogitRows | Tensor | tuple): Of the structure that its
            ``forward`` gives.
        batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.

    Returns:
        dict[str, Tensor]: What ``head.loss_by_feat`` gives for whole logits.
    """
    is_made = not _is_yet_to_be_made(output)
    reason = None if is_made else _why_no_tiles(head, output)
    if reason is not None:
        _log_once(reason)
    if is_made or reason is not None:
        return head.loss_by_feat(make_whole(output), batch_data_samples)
    label = head._stack_batch_gt(batch_data_samples)
    if not _fits(output, label, head.ignore_index):
        return head.loss_by_feat(make_whole(output), batch_data_samples)
    label = label.squeeze(1)
    accuracy = Accuracy(label, head.ignore_index)
    losses: dict[str, Tensor] = {}
    for i, module in enumerate(_losses_of(head)):
        value = loss_in_tiles(
            module, output, label, head.ignore_index, None if i else accuracy
        )
        key = module.loss_name
        losses[key] = losses[key] + value if key in losses else value
    return {**losses, 'acc_seg': accuracy.percent()}


def loss_of_logits(
    module: nn.Module, logits: LogitRows, label: Tensor, ignore_index: int
) -> Tensor:
    """Compute one loss of one map, in tiles of rows where possible.

    Args:
        module (nn.Module): A loss of mmseg.
        logits (LogitRows): Shape (N, K, H, W).
        label (Tensor): Shape (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.

    Returns:
        Tensor: What the loss gives for whole logits.
    """
    reason = _why_not(module, logits)
    if reason is not None:
        _log_once(reason)
    if reason is not None or not _fits(logits, label[:, None], ignore_index):
        return module(make_whole(logits), label, ignore_index=ignore_index)
    return loss_in_tiles(module, logits, label, ignore_index)


def make_whole(output: Output) -> Tensor | tuple:
    """Make whole logits of all that are yet to be made; differentiable."""
    if isinstance(output, LogitRows):
        return output.rows(slice(0, output.shape[2]))
    if isinstance(output, tuple):
        return tuple(make_whole(leaf) for leaf in output)
    return output


def _is_yet_to_be_made(output: Output) -> bool:
    if isinstance(output, LogitRows):
        return True
    return isinstance(output, tuple) and any(map(_is_yet_to_be_made, output))


def _losses_of(head: nn.Module) -> list[nn.Module]:
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def _why_no_tiles(head: nn.Module, output: Output) -> str | None:
    """Say why the losses of a head need whole logits; None if they do not."""
    name = type(head).__name__
    own = type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat
    if own or 'loss_by_feat' in vars(head):
        return f'{name}.loss_by_feat, which is not that of most heads'
    if not isinstance(output, LogitRows):
        return f'{name}, which has several outputs'
    if head.sampler is not None:
        return f'the sampler {type(head.sampler).__name__}'
    reasons = (_why_not(module, output) for module in _losses_of(head))
    return next((reason for reason in reasons if reason), None)


def _why_not(module: nn.Module, logits: LogitRows) -> str | None:
    """Say why a loss needs whole logits; None if it does not."""
    name = type(module).__name__
    if not has_float64(logits.device):
        return f'logits on a device of type {logits.device.type}'
    if not is_untouched(module):
        return f'{name} with hooks or another forward'
    if type(module) is RMILoss:
        return None
    if type(module) is ClassWeightedCrossEntropyLoss:
        if len(module.class_weight) == logits.shape[1]:
            return None
        return f'{name} with class weights of another number'
    if type(module) is not CrossEntropyLoss:
        return name
    if module.use_sigmoid or module.use_mask:
        return f'{name} with a sigmoid or masks'
    if module.reduction != 'mean' or module.class_weight is not None:
        return f'{name} with class_weight or a reduction other than mean'
    return None


def _fits(logits: LogitRows, label: Tensor, ignore_index: int) -> bool:
    """Whether labels (N, 1, H, W) are those that mmseg expects.

    Others are left to mmseg, which resizes logits or complains.
    """
    batch, num_classes, *size = logits.shape
    if label.dtype != torch.int64 or label.shape != (batch, 1, *size):
        return False
    if label.device.type != 'cpu':  # To look would wait for the GPU.
        return True
    low, high = label.where(label != ignore_index, 0).aminmax()
    return bool(low >= 0 and high < num_classes)


@lru_cache
def _log_once(reason: str) -> None:
    print_log(
        'losses that are computed from logits of full size, which takes '
        f'more time and memory: {reason}',
        logger='current',
        level=logging.WARNING,
    )
