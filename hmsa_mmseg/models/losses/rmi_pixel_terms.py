"""What the RMI loss computes from pixels, with a written-out gradient.

Shape shorthand in this module:
    N: batch, C: classes, H, W: size of logits and labels, h, w: size of the
    pooled maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .rmi_band_terms import chunk_elements, entropy_and_pools, slope_of_terms
from .rmi_pooling import Band, bands, pooled_size


def refuse_create_graph(name: str = 'RMILoss') -> None:
    """Raise an error in a backward that is to be differentiated again.

    ``once_differentiable`` would take what it cannot see for a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f'the gradient of {name} cannot be differentiated: expected '
            'backward without create_graph=True'
        )


def _bands(logits: Tensor) -> Iterator[tuple[int, Band]]:
    """Iterate over images and bands of their rows."""
    for image in range(len(logits)):
        for band in bands(logits.shape[2:], chunk_elements(logits.device)):
            yield image, band


class PixelTerms(Function):
    """Cross-entropy over all pixels, pooled probabilities, pooled labels."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        present: list[list[bool]] | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Compute the terms, a band of some classes at a time.

        Args:
            ctx (Any): Of autograd.
            logits (Tensor): Shape (N, C, H, W), float32 or float64.
            label (Tensor): Classes, negative where ignored, (N, H, W), int64.
            present (list[list[bool]] | None): By image and class, whether to
                pool. None: nothing is pooled.

        Returns:
            tuple: The cross-entropy summed over classes and pixels, float64;
            the pooled probabilities and the shares of the classes in the
            same windows, (N, C, h, w), 0 where not pooled, or twice None.
        """
        ctx.save_for_backward(logits, label)
        batch, num_classes, *size = logits.shape
        ctx.classes = pooled_classes(present, batch, num_classes)
        total = logits.new_zeros((), dtype=torch.float64)
        probs = labels = None
        if present is not None:
            probs = logits.new_zeros(batch, num_classes, *pooled_size(size))
            labels = torch.zeros_like(probs)
        for image, band in _bands(logits):
            total += entropy_and_pools(
                logits[image, :, band.rows],
                label[image, band.rows],
                band,
                None if probs is None else (probs[image], labels[image]),
                ctx.classes[image],
            )
        if labels is not None:
            ctx.mark_non_differentiable(labels)
        return total, probs, labels

    @staticmethod
    def backward(
        ctx: Any, grad_total: Tensor, grad_probs: Tensor | None, _: Any
    ) -> tuple[Tensor, None, None]:
        """Compute the probabilities again, and the gradient of the logits."""
        refuse_create_graph()
        logits, label = ctx.saved_tensors
        grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for image, band in _bands(logits):
            slope_of_terms(
                logits[image, :, band.rows],
                label[image, band.rows],
                band,
                grad_total.to(logits.dtype),
                None if grad_probs is None else grad_probs[image],
                ctx.classes[image],
                out=grad[image, :, band.rows],
            )
        return grad, None, None


def pooled_classes(
    present: list[list[bool]] | None, batch: int, num_classes: int
) -> list[list[int]]:
    """By image and channel its class, -1 where it need not be pooled."""
    if present is None:
        return [[-1] * num_classes] * batch
    return [
        [k if found else -1 for k, found in enumerate(image)]
        for image in present
    ]
