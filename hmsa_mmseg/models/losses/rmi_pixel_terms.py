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

from .rmi_pooling import POOL, Band, bands, pool, pooled_size, unpool

# What is added to every probability (the authors' _CLIP_MIN).
CLIP_MIN = 1e-6
# Elements taken at once: what fits the caches, what fills a GPU.
CHUNK_CPU, CHUNK_GPU = 2**17, 2**24
# A product of so many factors of 0.5 to 1 is a normal float32 number.
_MAX_FACTORS = 100


def chunks(device: torch.device, length: int, elements: int) -> list[slice]:
    """Split so many items of so many elements into what is taken at once."""
    budget = CHUNK_GPU if device.type == 'cuda' else CHUNK_CPU
    step = min(max(budget // elements, 1), _MAX_FACTORS)
    return [
        slice(start, min(start + step, length))
        for start in range(0, length, step)
    ]


def refuse_create_graph() -> None:
    """Raise an error in a backward that is to be differentiated again.

    ``once_differentiable`` would take what it cannot see for a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            'the gradient of RMILoss cannot be differentiated: expected '
            'backward without create_graph=True'
        )


def _bands(logits: Tensor) -> Iterator[tuple[int, Band, list[slice]]]:
    """Iterate over images, bands of their rows, and chunks of classes."""
    _, num_classes, *size = logits.shape
    for image in range(len(logits)):
        for band in bands(size, CHUNK_GPU if logits.is_cuda else CHUNK_CPU):
            pixels = (band.rows.stop - band.rows.start) * size[1]
            yield image, band, chunks(logits.device, num_classes, pixels)


class _SoftplusSum:
    """Sum of softplus(x) over classes, by pixel.

    softplus(x) = max(x, 0) - log(max(p, 1 - p)) with p = sigmoid(x), which is
    at hand; so one logarithm, of a product, serves many classes.

    Args:
        like (Tensor): Gives shape (H, W), dtype and device of the sum.
        step (int): The most classes added at once.
    """

    def __init__(self, like: Tensor, step: int) -> None:
        self.sum = torch.zeros_like(like)
        self.product = torch.ones_like(like)
        self.num_factors = 0
        self.scratch = like.new_empty(step, *like.shape)
        self.one = like.new_ones(())

    def add(self, logits: Tensor, probs: Tensor) -> None:
        """Add some classes: logits and their sigmoid, (k, H, W)."""
        if self.num_factors + len(logits) > _MAX_FACTORS:
            self.result()
        self.num_factors += len(logits)
        terms = self.scratch[: len(logits)]
        torch.sub(self.one, probs, out=terms)
        for plane in torch.maximum(terms, probs, out=terms):
            self.product *= plane
        for plane in torch.clamp_min(logits, 0, out=terms):
            self.sum += plane

    def result(self) -> Tensor:
        """Return what was added so far, (H, W)."""
        self.sum -= self.product.log_()
        self.product.fill_(1)
        self.num_factors = 0
        return self.sum


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
        ctx.present = present
        batch, num_classes, height, width = logits.shape
        total = logits.new_zeros((), dtype=torch.float64)
        probs_out = labels_out = None
        if present is not None:
            h, w = pooled_size((height, width))
            probs_out = logits.new_zeros(batch, num_classes, h, w)
            labels_out = torch.zeros_like(probs_out)
            ids = torch.arange(num_classes, device=label.device)
            ids = ids.to(logits.dtype).view(-1, 1, 1)
        for image, band, class_chunks in _bands(logits):
            target = label[image, band.rows]
            mask = (target >= 0).to(logits.dtype)
            step = class_chunks[0].stop
            softplus = _SoftplusSum(mask, step)
            padded = mask.new_zeros(step, *band.padded_size)
            if present is not None:
                # A comparison of floats gives floats at once.
                target_value = target.to(logits.dtype)
                padded[0][band.inner] = CLIP_MIN
                clip = pool(padded[:1], band, w)
            for classes in class_chunks:
                chunk = logits[image, classes, band.rows]
                buffer = padded[: len(chunk)]
                probs = buffer[(slice(None), *band.inner)]
                torch.sigmoid(chunk, out=probs)
                softplus.add(chunk, probs)
                if present is not None and any(present[image][classes]):
                    probs *= mask
                    pooled = pool(buffer, band, w) + clip
                    probs_out[image, classes, band.cells] = pooled
                    torch.eq(target_value, ids[classes], out=probs)
                    pooled = pool(buffer, band, w)
                    labels_out[image, classes, band.cells] = pooled
            of_target = logits[image, :, band.rows].gather(
                0, target.clamp_min(0)[None]
            )
            entropy = softplus.result() - of_target[0]
            total += (entropy * mask).sum(dtype=torch.float64)
        if labels_out is not None:
            ctx.mark_non_differentiable(labels_out)
        return total, probs_out, labels_out

    @staticmethod
    def backward(
        ctx: Any, grad_total: Tensor, grad_probs: Tensor | None, _: Any
    ) -> tuple[Tensor, None, None]:
        """Compute the probabilities again, and the gradient of the logits."""
        refuse_create_graph()
        logits, label = ctx.saved_tensors
        present = ctx.present
        grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
        grad_total = grad_total.to(logits.dtype)
        for image, band, class_chunks in _bands(logits):
            target = label[image, band.rows]
            share = (target >= 0).to(logits.dtype)
            if present is not None:
                mask = share.new_zeros(band.padded_size)
                mask[band.inner] = share
                padded = mask.new_zeros(
                    class_chunks[0].stop, *band.padded_size
                )
            share = share * grad_total
            for classes in class_chunks:
                probs = grad[image, classes, band.rows]
                torch.sigmoid(logits[image, classes, band.rows], out=probs)
                slope = share
                if present is not None and any(present[image][classes]):
                    # The gradient is p * (share + (1 - p) * pooled): the
                    # bracket lies between share + pooled and share.
                    buffer = padded[: len(probs)]
                    pooled = grad_probs[image, classes, band.cells] / POOL**2
                    unpool(pooled, grad_total, mask, buffer)
                    slope = buffer[(slice(None), *band.inner)]
                    torch.lerp(slope, share.expand_as(slope), probs, out=slope)
                probs *= slope
            grad[image, :, band.rows].scatter_add_(
                0, target.clamp_min(0)[None], -share[None]
            )
        return grad, None, None
