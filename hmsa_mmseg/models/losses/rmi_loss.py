"""Region mutual information as a loss of mmseg."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..scale_fusion import in_float32
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..tiled.loss_walk import loss_in_tiles
from ..utils.execution import (
    has_float64,
    is_tracing,
    may_wait,
    no_autocast,
)
from . import rmi_formula
from .rmi_formula import POOL, RADIUS
from .rmi_tiles import RMITiles

#: The least height and width of labels: one region once pooled.
MIN_SIZE = (RADIUS - 1) * POOL


@MODELS.register_module()
class RMILoss(nn.Module):
    """Binary cross-entropy and region mutual information (RMI), half each.

    What the authors train their best models with: `Region Mutual Information
    Loss for Semantic Segmentation <https://arxiv.org/abs/1910.12037>`_, with
    their constants (NVIDIA/semantic-segmentation, loss/rmi.py). Without its
    RMI term it is the loss of their auxiliary head and single scales. The
    formula is in :mod:`.rmi_formula`.

    The loss is negative where predictions are good: a class that an image
    does not have adds 0.25 * log(5e-4) = -1.9. It runs in float32, the
    covariances in float64, also under autocast. The gradient cannot be
    differentiated again.

    Args:
        num_classes (int, optional): Not needed, and ignored with a warning:
            the logits say it.
        with_rmi (bool): False for the cross-entropy alone, which then counts
            in full. Defaults to True.
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        loss_name (str, optional): Key of the loss; with "loss" in it, it adds
            to what is trained. Defaults to None: ``loss_rmi``, or
            ``loss_bce`` without the RMI term.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        with_rmi: bool = True,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__()
        if num_classes is not None:
            _warn_about_num_classes()
        self.with_rmi = with_rmi
        self.loss_weight = loss_weight
        default_name = 'loss_rmi' if with_rmi else 'loss_bce'
        self._loss_name = default_name if loss_name is None else loss_name

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = 255,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred (Tensor): Logits, shape (N, C, H, W).
            target (Tensor): Classes, shape (N, H, W), int64.
            weight (Tensor, optional): Must be None, see below.
            avg_factor (float, optional): Must be None: the loss has its own.
            reduction_override (str, optional): None or ``mean``.
            ignore_index (int, optional): Label of pixels that do not count.
                Defaults to 255, mmseg's; None: there is none.

        Returns:
            Tensor: The loss, a scalar, float32 (float64 for such logits).
            Without a single labelled pixel it is a constant, with a gradient
            of zero. NaN if a logit is not finite.

        Raises:
            ValueError: If shapes do not fit, the label map is too small for
                one region, or a label is neither a class nor
                ``ignore_index`` (on a GPU, where looking would mean to wait,
                by a device-side assertion), if asked for pixel weights or
                another reduction, or on a device without float64.
        """
        if weight is not None:
            raise ValueError(
                'RMILoss takes no pixel weights, as its regions have none: '
                'remove `sampler` from the head'
            )
        if avg_factor is not None or reduction_override not in (None, 'mean'):
            raise ValueError(
                "RMILoss has the reduction 'mean' and no avg_factor, got "
                f'{reduction_override!r} and {avg_factor!r}'
            )
        if not has_float64(pred.device):
            raise ValueError(
                f'RMILoss computes in float64, which a device of type '
                f"'{pred.device.type}' does not have: train on another, or "
                'with CrossEntropyLoss'
            )
        label = self.labels_for(pred.shape, target, ignore_index)
        with no_autocast(pred.device):
            logits = in_float32(pred)
            if not is_tracing():
                rows = WholeLogits(logits)
                loss = loss_in_tiles(self.tile_loss(rows, label), rows)
            elif self.with_rmi:
                loss = rmi_formula.rmi_loss(logits, label)
            else:
                loss = rmi_formula.bce_loss(logits, label)
            return self.loss_weight * loss

    def labels_for(
        self, shape: Sequence[int], target: Tensor, ignore_index: int | None
    ) -> Tensor:
        """Check the labels of logits (N, C, H, W), as :meth:`forward` says.

        Returns:
            Tensor: The labels, -1 where ignored, (N, H, W), int64.
        """
        if len(shape) != 4 or target.shape != (shape[0], *shape[2:]):
            raise ValueError(
                f'RMILoss: labels of shape {tuple(target.shape)} do not fit '
                f'logits of shape {tuple(shape)}; expected (N, H, W) for '
                '(N, C, H, W)'
            )
        height, width = target.shape[1:]
        if self.with_rmi and min(height, width) < MIN_SIZE:
            raise ValueError(
                f'RMILoss: labels of {height}x{width} pixels are too small '
                f'for a region; expected {MIN_SIZE}x{MIN_SIZE} or more '
                '(crop_size)'
            )
        num_classes = shape[1]
        is_class = (target >= 0) & (target < num_classes)
        if ignore_index is None:
            allowed = is_class
        else:
            ignored = target == ignore_index
            allowed = is_class | ignored
            is_class &= ~ignored
        if not may_wait(target.device):
            if not target.is_meta:
                torch._assert_async(allowed.all())
        elif not allowed.all():
            found = target[~allowed].unique()[:10].tolist()
            raise ValueError(
                f'RMILoss: found labels {found} in the ground truth; expected '
                f'0 to {num_classes - 1} (num_classes={num_classes} of the '
                f'head) or ignore_index={ignore_index}'
            )
        return target.long().masked_fill(~is_class, -1)

    def tile_loss(self, logits: LogitRows, label: Tensor) -> RMITiles:
        """The loss without its weight, for logits that come in tiles.

        ``label`` is what :meth:`labels_for` gives.
        """
        return RMITiles(label, logits.shape[1], logits.dtype, self.with_rmi)

    @property
    def loss_name(self) -> str:
        """Key of the loss in the log."""
        return self._loss_name


@lru_cache(maxsize=1)  # once for all losses
def _warn_about_num_classes() -> None:
    print_log(
        'RMILoss: num_classes is not needed any more, remove it from '
        'loss_decode and loss_scale',
        logger='current',
        level=logging.WARNING,
    )
