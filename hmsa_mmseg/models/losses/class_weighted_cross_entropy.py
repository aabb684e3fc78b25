"""Cross-entropy with class weights, where pixels are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ClassWeightedCrossEntropyLoss(CrossEntropyLoss):
    """mmseg's ``CrossEntropyLoss`` with class weights and ignored pixels.

    With ``class_weight``, mmseg 1.2.2 looks up a weight for the label of
    every pixel, ignored or not, and fails with an ``IndexError`` at 255 (on
    CUDA with a device-side assert). Here the sum over the pixels is divided
    by the weights of those that have a label, as in
    ``torch.nn.functional.cross_entropy``; it is 0 where none has one. A
    pixel sampler's choice changes the sum but not the divisor, as in mmseg.

    Args:
        class_weight (list[float] | str): Weight of each class, or a file
            with them.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
        loss_name (str): Key of the loss. Defaults to 'loss_ce'.
        avg_non_ignore (bool): True; configs of mmseg's loss have it.

    Raises:
        ValueError: If ``avg_non_ignore`` is False.
    """

    def __init__(
        self,
        class_weight: list[float] | str,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
        avg_non_ignore: bool = True,
    ) -> None:
        if not avg_non_ignore:
            raise ValueError(
                'ClassWeightedCrossEntropyLoss: avg_non_ignore=False; '
                'expected True: the sum is divided by the weights of pixels '
                'with a label'
            )
        super().__init__(
            class_weight=class_weight,
            loss_weight=loss_weight,
            loss_name=loss_name,
            avg_non_ignore=True,
        )

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int = -100,
        **kwargs,
    ) -> Tensor:
        """Compute the loss of logits (N, K, H, W) and labels (N, H, W).

        ``weight`` (N, H, W) is that of each pixel, ``avg_factor`` a divisor
        instead of the above; (N, H, W) with the reduction 'none'.
        """
        if avg_factor is None and reduction_override in (None, 'mean'):
            has_label = label != ignore_index
            weights = class_weights(self, cls_score)
            avg_factor = (weights[label.where(has_label, 0)] * has_label).sum()
        return super().forward(
            cls_score,
            label,
            weight=weight,
            avg_factor=avg_factor,
            reduction_override=reduction_override,
            ignore_index=ignore_index,
            **kwargs,
        )


def class_weights(
    module: ClassWeightedCrossEntropyLoss, like: Tensor
) -> Tensor:
    """Weights of the classes, of the type and on the device of logits."""
    return _weights(tuple(module.class_weight), like.dtype, like.device)


# Copied to a GPU once: each copy waits for it.
@lru_cache(maxsize=16)
@torch.inference_mode(False)  # training may be next to use them
def _weights(
    weights: Sequence[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor(weights, dtype=dtype, device=device)
