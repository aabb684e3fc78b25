"""What the RMI loss computes from the pixels of one band, and its gradient.

A band is some rows of one image, with whole pooling windows. It is worked on
a few classes at a time, which stay in the cache.

Shape shorthand in this module:
    C: classes, W: width of logits and labels, h, w: size of the pooled maps,
    k: classes taken at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .rmi_pooling import POOL, Band, pool, unpool

# What is added to every probability (the authors' _CLIP_MIN).
CLIP_MIN = 1e-6
# Elements taken at once: what fits the caches, what fills a GPU.
CHUNK_CPU, CHUNK_GPU = 2**17, 2**24
# A product of so many factors of 0.5 to 1 is a normal float32 number.
_MAX_FACTORS = 100


def chunk_elements(device: torch.device) -> int:
    """Elements taken at once; what has no values is counted as on a GPU."""
    if device.type != 'cpu':
        return CHUNK_GPU
    # Two threads share what is to be worth waking the second one for.
    return CHUNK_CPU * min(torch.get_num_threads(), 2)


def chunks(device: torch.device, length: int, elements: int) -> list[slice]:
    """Split so many items of so many elements into what is taken at once."""
    budget = chunk_elements(device)
    step = min(max(budget // elements, 1), _MAX_FACTORS)
    return [
        slice(start, min(start + step, length))
        for start in range(0, length, step)
    ]


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
        torch.maximum(terms, probs, out=terms)
        if terms.device.type != 'cpu':
            # One kernel, not one for each class.
            self.product *= terms.prod(dim=0)
            self.sum += torch.clamp_min(logits, 0, out=terms).sum(dim=0)
            return
        for plane in terms:
            self.product *= plane
        for plane in torch.clamp_min(logits, 0, out=terms):
            self.sum += plane

    def result(self) -> Tensor:
        """Return what was added so far, (H, W)."""
        self.sum -= self.product.log_()
        self.product.fill_(1)
        self.num_factors = 0
        return self.sum


def entropy_and_pools(
    logits: Tensor,
    target: Tensor,
    band: Band,
    pools: tuple[Tensor, Tensor] | None,
    classes: Sequence[int],
    with_entropy: bool = True,
) -> Tensor | None:
    """Compute the terms of a band of one image, some channels at a time.

    Args:
        logits (Tensor): Shape (C, rows, W), float32 or float64.
        target (Tensor): Class of each pixel, negative where ignored,
            (rows, W), int64.
        band (Band): Which rows.
        pools (tuple[Tensor, Tensor], optional): What to write to: pooled
            probabilities and shares of the classes, (C, h, w) each. None:
            nothing is pooled.
        classes (Sequence[int]): For each channel its class, negative where
            it need not be pooled.
        with_entropy (bool): Whether to compute the cross-entropy; otherwise
            channels need not be all classes. Defaults to True.

    Returns:
        Tensor | None: The cross-entropy, summed over classes and pixels,
        float64.
    """
    mask = (target >= 0).to(logits.dtype)
    parts = chunks(logits.device, len(logits), target.numel())
    step = parts[0].stop
    softplus = _SoftplusSum(mask, step) if with_entropy else None
    padded = mask.new_zeros(step, *band.padded_size)
    if pools is not None:
        width = pools[0].shape[2]
        # A comparison of floats gives floats at once.
        target_value = target.to(logits.dtype)
        ids = _class_ids(classes, logits)
        padded[0][band.inner] = CLIP_MIN
        clip = pool(padded[:1], band, width)
    for part in parts:
        chunk = logits[part]
        buffer = padded[: len(chunk)]
        probs = buffer[(slice(None), *band.inner)]
        torch.sigmoid(chunk, out=probs)
        if softplus is not None:
            softplus.add(chunk, probs)
        if pools is not None and max(classes[part]) >= 0:
            probs *= mask
            pools[0][part, band.cells] = pool(buffer, band, width) + clip
            torch.eq(target_value, ids[part].view(-1, 1, 1), out=probs)
            pools[1][part, band.cells] = pool(buffer, band, width)
    if softplus is None:
        return None
    return _entropy(softplus.result(), logits, target, mask)


def slope_of_terms(
    logits: Tensor,
    target: Tensor,
    band: Band,
    grad_total: Tensor,
    grad_probs: Tensor | None,
    classes: Sequence[int],
    out: Tensor,
    with_entropy: bool = False,
) -> Tensor | None:
    """Compute the probabilities of a band again, and the gradient.

    Args:
        logits (Tensor): As for :func:`entropy_and_pools`, all classes.
        target (Tensor): Likewise.
        band (Band): Likewise.
        grad_total (Tensor): Gradient of the cross-entropy, a scalar.
        grad_probs (Tensor, optional): That of the pooled probabilities,
            (C, h, w), 0 where not pooled. None: nothing was pooled.
        classes (Sequence[int]): As for :func:`entropy_and_pools`.
        out (Tensor): What to write the gradient to, (C, rows, W).
        with_entropy (bool): As for :func:`entropy_and_pools`. Defaults to
            False.

    Returns:
        Tensor | None: As :func:`entropy_and_pools`.
    """
    mask = (target >= 0).to(logits.dtype)
    share = mask * grad_total
    parts = chunks(logits.device, len(logits), target.numel())
    step = parts[0].stop
    softplus = _SoftplusSum(mask, step) if with_entropy else None
    if grad_probs is not None:
        padded_mask = mask.new_zeros(band.padded_size)
        padded_mask[band.inner] = mask
        padded = mask.new_empty(step, *band.padded_size)
    for part in parts:
        probs = out[part]
        torch.sigmoid(logits[part], out=probs)
        if softplus is not None:
            softplus.add(logits[part], probs)
        slope = share
        if grad_probs is not None and max(classes[part]) >= 0:
            # The gradient is p * (share + (1 - p) * pooled): the bracket
            # lies between share + pooled and share.
            buffer = padded[: len(probs)]
            pooled = grad_probs[part, band.cells] / POOL**2
            unpool(pooled, grad_total, padded_mask, buffer)
            slope = buffer[(slice(None), *band.inner)]
            torch.lerp(slope, share.expand_as(slope), probs, out=slope)
        probs *= slope
    out.scatter_add_(0, target.clamp_min(0)[None], -share[None])
    if softplus is None:
        return None
    return _entropy(softplus.result(), logits, target, mask)


def _class_ids(classes: Sequence[int], like: Tensor) -> Tensor:
    """Class of each channel, where it has one, as floats (C,)."""
    if all(k in (i, -1) for i, k in enumerate(classes)):
        # Made where it is used: a copy to a GPU would wait for it.
        return torch.arange(len(classes), dtype=like.dtype, device=like.device)
    return like.new_tensor(classes)


def _entropy(
    softplus: Tensor, logits: Tensor, target: Tensor, mask: Tensor
) -> Tensor:
    """Sum softplus(x) over all classes, less the target's x, over pixels."""
    of_target = logits.gather(0, target.clamp_min(0)[None])[0]
    return ((softplus - of_target) * mask).sum(dtype=torch.float64)
