"""Region mutual information as a loss of mmseg."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from .rmi_functional import MIN_SIZE, bce_loss, rmi_loss


@MODELS.register_module()
class RMILoss(nn.Module):
    """Binary cross-entropy and region mutual information (RMI), half each.

    What the authors train their best models with: `Region Mutual Information
    Loss for Semantic Segmentation <https://arxiv.org/abs/1910.12037>`_, with
    their constants (NVIDIA/semantic-segmentation, loss/rmi.py). Without its
    RMI term it is the loss of their auxiliary head and single scales.

    The loss is negative where predictions are good: a class that an image
    does not have adds 0.25 * log(5e-4) = -1.9. It runs in float32, the
    covariances in float64, also under autocast. The gradient cannot be
    differentiated again.

    Args:
        num_classes (int): C.
        with_rmi (bool): False for the cross-entropy alone, which then counts
            in full. Defaults to True.
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        loss_name (str, optional): Key of the loss; with "loss" in it, it adds
            to what is trained. Defaults to None: ``loss_rmi``, or
            ``loss_bce`` without the RMI term.

    Raises:
        ValueError: If ``num_classes`` is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        with_rmi: bool = True,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(
                f'RMILoss: num_classes must be 1 or more, got {num_classes}'
            )
        self.num_classes = num_classes
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
            Without a single labelled pixel it is that of no signal, with a
            gradient of zero. NaN if a logit is not finite.

        Raises:
            ValueError: If shapes do not fit, the label map is too small for
                one region, or a label is neither a class nor
                ``ignore_index`` (on a GPU, where looking would mean to wait,
                by a device-side assertion), or if asked for pixel weights or
                another reduction.
        """
        self._check_arguments(weight, avg_factor, reduction_override)
        label = self.labels_for(pred.shape, target, ignore_index)
        with torch.autocast(pred.device.type, enabled=False):
            logits = pred if pred.dtype == torch.float64 else pred.float()
            loss = (rmi_loss if self.with_rmi else bce_loss)(logits, label)
            return self.loss_weight * loss * one_or_nan(logits)

    def _check_arguments(
        self,
        weight: Tensor | None,
        avg_factor: float | None,
        reduction: str | None,
    ) -> None:
        if weight is not None:
            raise ValueError(
                'RMILoss takes no pixel weights, as its regions have none: '
                'remove `sampler` from the head'
            )
        if avg_factor is not None or reduction not in (None, 'mean'):
            raise ValueError(
                "RMILoss has the reduction 'mean' and no avg_factor, got "
                f'{reduction!r} and {avg_factor!r}'
            )

    def labels_for(
        self, shape: Sequence[int], target: Tensor, ignore_index: int | None
    ) -> Tensor:
        """Check the labels of logits of some shape.

        Args:
            shape (Sequence[int]): That of the logits, (N, C, H, W).
            target (Tensor): As for :meth:`forward`.
            ignore_index (int, optional): Likewise.

        Returns:
            Tensor: The labels, -1 where ignored, (N, H, W), int64.

        Raises:
            ValueError: As :meth:`forward`.
        """
        if len(shape) != 4 or shape[1] != self.num_classes:
            raise ValueError(
                f'RMILoss: expected logits of {self.num_classes} classes '
                f'(num_classes), (N, {self.num_classes}, H, W), got '
                f'{tuple(shape)}'
            )
        if target.shape != (shape[0], *shape[2:]):
            raise ValueError(
                f'RMILoss: labels of shape {tuple(target.shape)} do not fit '
                f'logits of shape {tuple(shape)}'
            )
        if self.with_rmi and min(target.shape[1:]) < MIN_SIZE:
            height, width = target.shape[1:]
            raise ValueError(
                f'RMILoss: labels of {height}x{width} pixels are too small '
                f'for a region; expected {MIN_SIZE}x{MIN_SIZE} or more '
                '(crop_size)'
            )
        is_class = (target >= 0) & (target < self.num_classes)
        if ignore_index is None:
            allowed = is_class
        else:
            ignored = target == ignore_index
            allowed = is_class | ignored
            is_class &= ~ignored
        if target.is_cuda:
            torch._assert_async(allowed.all())
        elif not (target.is_meta or allowed.all()):
            found = target[~allowed].unique()[:10].tolist()
            raise ValueError(
                f'RMILoss: found labels {found} in the ground truth; expected '
                f'0 to {self.num_classes - 1} (num_classes='
                f'{self.num_classes}) or ignore_index={ignore_index}'
            )
        return target.long().masked_fill(~is_class, -1)

    @property
    def loss_name(self) -> str:
        """Key of the loss in the log."""
        return self._loss_name


def one_or_nan(logits: Tensor) -> Tensor:
    """1, or NaN if any logit is not finite.

    An infinite logit need not show in the loss or its gradient; this way it
    does in both, and a GradScaler or a guard against such losses sees it.
    """
    low, high = logits.detach().aminmax()
    return 0 * low + 0 * high + 1
