"""Losses of fused logits that are never made as a whole.

What a seg head's ``loss_by_feat`` gives, for the losses that are written for
tiles of rows: mmseg's softmax cross-entropy, with and without hard pixel
mining, and those of this package. All else gets whole logits.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: head output size at one
    scale.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures.sampler import OHEMPixelSampler
from mmseg.utils import SampleList
from torch import Tensor, nn
from torch.autograd import Function

from ..losses.class_weighted_cross_entropy import ClassWeightedCrossEntropyLoss
from ..losses.rmi_loss import RMILoss
from ..losses.rmi_pixel_terms import refuse_create_graph
from ..scale_fusion import in_float32
from ..utils import no_autocast
from .head_structure import has_hooks
from .row_losses_accuracy import RowAccuracy
from .row_losses_cross_entropy import RowCrossEntropy
from .row_losses_ohem import hard_pixels
from .row_losses_rmi import RowRMI
from .row_losses_walk import RowLogits, Watch

#: Computes a loss from logits and adds its gradient to the second argument.
RowLoss = Callable[
    [RowLogits, Optional[Sequence[Optional[Tensor]]], Optional[Watch]], Tensor
]
LazyOutput = Union[RowLogits, Tensor, tuple]

# What has been said once is not said again.
_said: set[str] = set()


def loss_by_feat(
    head: nn.Module, output: LazyOutput, batch_data_samples: SampleList
) -> dict[str, Tensor]:
    """Compute the losses of a seg head, in tiles of rows where possible.

    Args:
        head (nn.Module): A decode head of mmseg.
        output (RowLogits | Tensor | tuple): Of the structure that its
            ``forward`` gives.
        batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.

    Returns:
        dict[str, Tensor]: What ``head.loss_by_feat`` gives for whole logits.
    """
    if _is_lazy(output):
        reason = _why_not(head, output)
        if reason is None and isinstance(output, RowLogits):
            label = head._stack_batch_gt(batch_data_samples)
            if _fits(output, label, head.ignore_index):
                label = label.squeeze(1)
                return _uncompiled(_losses_in_rows, head, output, label)
        elif reason is not None:
            _say(reason)
    return head.loss_by_feat(make_full(output), batch_data_samples)


def loss_of_logits(
    module: nn.Module, source: RowLogits, label: Tensor, ignore_index: int
) -> Tensor:
    """Compute one loss of one map, in tiles of rows where possible.

    Args:
        module (nn.Module): A loss of mmseg.
        source (RowLogits): The logits.
        label (Tensor): Shape (N, H, W), int64.
        ignore_index (int): Label of pixels that do not count.

    Returns:
        Tensor: What the loss gives for whole logits.
    """
    reason = _why_no_loss(module, source)
    if reason is not None:
        _say(reason)
    elif _fits(source, label[:, None], ignore_index):
        return _uncompiled(_loss_in_rows, module, source, label, ignore_index)
    return module(source.full(), label, ignore_index=ignore_index)


def _uncompiled(function: Callable, *args: Any) -> Any:
    """Call a function out of sight of ``torch.compile``.

    It would break the loops over tiles into pieces, and gives a wrong value
    for what they add up (torch 2.13).
    """
    dynamo = sys.modules.get('torch._dynamo')  # slow to import, rarely there
    if dynamo is not None:
        function = dynamo.disable(function)
    return function(*args)


def make_full(output: LazyOutput) -> Tensor | tuple:
    """Make whole logits, (N, K, H, W), of all that are yet to be made."""
    if isinstance(output, RowLogits):
        return output.full()
    if isinstance(output, tuple):
        return tuple(make_full(leaf) for leaf in output)
    return output


def _is_lazy(output: LazyOutput) -> bool:
    if isinstance(output, RowLogits):
        return True
    return isinstance(output, tuple) and any(map(_is_lazy, output))


def _why_not(head: nn.Module, output: LazyOutput) -> str | None:
    """Say why the losses of a head need whole logits; None if they do not."""
    name = type(head).__name__
    own = type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat
    if own or 'loss_by_feat' in vars(head):
        return f'{name}.loss_by_feat, which is not that of most heads'
    if not isinstance(output, RowLogits):
        return f'{name}, which has several outputs'
    for module in _losses_of(head):
        reason = _why_no_loss(module, output)
        if reason is not None:
            return reason
    if head.sampler is None:
        return None
    if not _is_plain(head.sampler, OHEMPixelSampler, 'sample'):
        return f'the sampler {type(head.sampler).__name__}'
    for module in _losses_of(head):
        if isinstance(module, RMILoss):
            return 'RMILoss with a sampler'
    return None


def _why_no_loss(module: nn.Module, source: RowLogits) -> str | None:
    """Say why a loss needs whole logits; None if it does not."""
    name = type(module).__name__
    if not source.has_rows():
        return 'attention of another size than the logits'
    device = source.logits[0].device.type
    if device not in ('cpu', 'cuda', 'meta'):
        # They add up in float64, which not all devices have.
        return f'logits on a device of type {device}'
    if _is_plain(module, RMILoss, 'forward'):
        return None
    kinds = (CrossEntropyLoss, ClassWeightedCrossEntropyLoss)
    if not any(_is_plain(module, kind, 'forward') for kind in kinds):
        return name
    if module.use_sigmoid or module.use_mask:
        return f'{name} with a sigmoid or masks'
    if module.reduction != 'mean':
        return f'{name} with reduction={module.reduction!r}'
    weights = module.class_weight
    if weights is not None and len(weights) != source.shape[1]:
        return f'{name} with class weights of another number'
    return None


def _is_plain(module: Any, kind: type, method: str) -> bool:
    """Whether this is the class itself, and nobody has changed it."""
    is_kind = type(module) is kind and method not in vars(module)
    return is_kind and not has_hooks(module)


def _losses_of(head: nn.Module) -> list[nn.Module]:
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def _fits(source: RowLogits, label: Tensor, ignore_index: int) -> bool:
    """Whether labels (N, 1, H, W) are those that mmseg expects.

    Others are left to the plain way, which resizes logits or complains.
    """
    batch, num_classes, *size = source.shape
    if label.dtype != torch.int64 or label.shape != (batch, 1, *size):
        return False
    if label.device.type != 'cpu':  # To look would wait for the GPU.
        return True
    low, high = label.where(label != ignore_index, 0).aminmax()
    return bool(low >= 0 and high < num_classes)


def _say(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        print_log(
            'losses that are computed from logits of full size, which takes '
            f'more time and memory: {reason}',
            logger='current',
            level=logging.WARNING,
        )


def _losses_in_rows(
    head: nn.Module, source: RowLogits, label: Tensor
) -> dict[str, Tensor]:
    """Do what ``BaseDecodeHead.loss_by_feat`` does; label (N, H, W)."""
    ignore_index = head.ignore_index
    modules = _losses_of(head)
    pixel_weight = None
    if head.sampler is not None:
        maps = _in_float(source)
        with no_autocast(label.device):
            pixel_weight = hard_pixels(
                head.sampler, modules, maps, label, ignore_index
            )
    accuracy = RowAccuracy(label, ignore_index)
    losses: dict[str, Tensor] = {}
    for i, module in enumerate(modules):
        value = _loss_in_rows(
            module,
            source,
            label,
            ignore_index,
            pixel_weight,
            watch=None if i else accuracy,
        )
        name = module.loss_name
        losses[name] = losses[name] + value if name in losses else value
    losses['acc_seg'] = accuracy.percent()
    return losses


def _loss_in_rows(
    module: nn.Module,
    source: RowLogits,
    label: Tensor,
    ignore_index: int,
    pixel_weight: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    if isinstance(module, RMILoss):
        label = module.labels_for(source.shape, label, ignore_index)
        loss: RowLoss = RowRMI(module, label)
    else:
        loss = RowCrossEntropy(module, label, ignore_index, pixel_weight)
    source = _in_float(source)
    value = _RowLossFunction.apply(loss, source, watch, *source.maps)
    return module.loss_weight * value


def _in_float(source: RowLogits) -> RowLogits:
    """Maps in float32, as the fusion makes them; float64 stays."""
    return source.with_maps([in_float32(x) for x in source.maps])


class _RowLossFunction(Function):
    """A loss of all maps; its gradient is computed together with it."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: RowLoss,
        source: RowLogits,
        watch: Watch | None,
        *maps: Tensor,
    ) -> Tensor:
        """Return the loss, a scalar of the type of the maps."""
        source = source.with_maps(maps)
        wanted = ctx.needs_input_grad[3:]
        grads = None
        if any(wanted):
            grads = [
                torch.zeros_like(x) if want else None
                for x, want in zip(maps, wanted)
            ]
        with no_autocast(maps[0].device):
            value = loss(source, grads, watch)
        ctx.is_wanted = wanted
        ctx.save_for_backward(*(g for g in grads or () if g is not None))
        return value.to(maps[0].dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients by that of the loss."""
        refuse_create_graph('a loss in rows')
        grads = iter(ctx.saved_tensors)
        found = (next(grads) * grad if w else None for w in ctx.is_wanted)
        return (None, None, None, *found)
