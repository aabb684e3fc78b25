"""Region mutual information (RMI), written for speed and little memory.

The loss of `Region Mutual Information Loss for Semantic Segmentation
<https://arxiv.org/abs/1910.12037>`_ (Zhao et al. 2019), as the authors of
hierarchical multi-scale attention use it (NVIDIA/semantic-segmentation,
loss/rmi.py). For each image and class, label and probability maps are pooled,
and every 3x3 region of a pooled map is one sample of 9 values. The loss is
half the log-determinant of the covariance of the labels' regions given those
of the probabilities: how much of the labels' structure is left open.

The authors' program makes the one-hot labels and the regions as whole
tensors. Here nothing of the size of the logits is made but their gradient:
bands of a few classes are taken at a time, and backward computes the
probabilities again.

Shape shorthand in this module:
    N: batch, C: classes, H, W: size of logits and labels, h, w: size of the
    pooled maps, P: pairs of an image and a class.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .rmi_band_terms import chunks
from .rmi_pixel_terms import PixelTerms, refuse_create_graph
from .rmi_pooling import POOL

# The authors' constants (loss/rmi.py).
RADIUS = 3
POS_ALPHA = 5e-4
LOG_MIN = 1e-8
LAMBDA = 0.5

REGION = RADIUS * RADIUS
#: The least height and width of a label map: one region once pooled.
MIN_SIZE = (RADIUS - 1) * POOL


class RegionCovariance(Function):
    """Joint covariance of the 3x3 regions of two maps (P, h, w).

    Let ``a[p]`` be three neighbours in a row of both maps, 6 values, for all
    positions row by row, ``w - 2`` in each. The region at p is then ``a[p]``,
    ``a[p + w - 2]`` and ``a[p + 2 * (w - 2)]``, and the 18 x 18 products are
    those of three views of ``a``: regions are never made.
    """

    @staticmethod
    def forward(ctx: Any, probs: Tensor, labels: Tensor) -> Tensor:
        """Return (P, 18, 18), float64.

        Of the 18 values the row in the region varies slowest, then the
        column, then the map.
        """
        covs, means = [], []
        rows = probs.shape[1] - RADIUS + 1
        for planes in _plane_chunks(probs):
            maps = _centred(probs[planes], labels[planes])
            # Positions before values: products of these tall matrices are
            # several times faster than those of their transposes.
            values = maps.permute(0, 2, 3, 1).flatten(2).unfold(2, 6, 2)
            values = values.contiguous()
            views = [
                values[:, y : y + rows].flatten(1, 2) for y in range(RADIUS)
            ]
            first, *others = (views[0].transpose(1, 2) @ v for v in views)
            # The products of two later rows of a region are those of two
            # earlier ones, but for the rows of the maps at the borders.
            top, bottom = (
                _products_of_two_rows(values[:, y : y + 2]) for y in (0, rows)
            )
            edge = bottom - top
            second = first + edge[:, 0, :, 0]
            products = {
                (0, 0): first,
                (0, 1): others[0],
                (0, 2): others[1],
                (1, 1): second,
                (1, 2): others[0] + edge[:, 0, :, 1],
                (2, 2): second + edge[:, 1, :, 1],
            }
            cov = maps.new_empty(len(maps), RADIUS, 6, RADIUS, 6)
            for (y, z), product in products.items():
                cov[:, y, :, z] = product
                cov[:, z, :, y] = product.transpose(1, 2)
            cov = cov.flatten(3).flatten(1, 2)
            sums = values.sum(dim=2).unfold(1, rows, 1).sum(dim=3)
            length = views[0].shape[1]
            mean = sums.view(-1, 18, 1) / length
            covs.append(cov - length * mean * mean.transpose(1, 2))
            means.append(mean)
        ctx.save_for_backward(probs, labels, torch.cat(means))
        return torch.cat(covs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the first maps; the second take none."""
        refuse_create_graph()
        probs, labels, mean = ctx.saved_tensors
        grad = grad + grad.transpose(1, 2)
        shift = (grad @ mean).view(-1, RADIUS, RADIUS, 2, 1)[:, :, :, 0]
        # (P, row, column, row, column and map)
        grad = grad.view(-1, RADIUS, RADIUS, 2, RADIUS, 6)[:, :, :, 0]
        out = torch.empty_like(probs)
        rows, cols = (side - RADIUS + 1 for side in probs.shape[1:])
        for planes in _plane_chunks(probs):
            maps = _centred(probs[planes], labels[planes])
            values = maps.unfold(3, RADIUS, 1).permute(0, 4, 1, 2, 3)
            values = values.flatten(1, 2).flatten(2)
            slopes = maps.new_zeros(len(maps), RADIUS, maps.shape[2], cols)
            flat_slopes = slopes.flatten(2)
            for y in range(RADIUS):
                slope = flat_slopes.narrow(2, y * cols, rows * cols)
                slope -= shift[planes, y]
                for z in range(RADIUS):
                    row = values.narrow(2, z * cols, rows * cols)
                    slope.baddbmm_(grad[planes, y, :, z], row)
            folded = torch.zeros_like(maps[:, 0])
            for x in range(RADIUS):
                folded[:, :, x : x + cols] += slopes[:, x]
            out[planes] = folded
        return out, None


def _products_of_two_rows(values: Tensor) -> Tensor:
    """All products of two rows (k, 2, w, 6), shape (k, 2, 6, 2, 6)."""
    pairs = values.transpose(1, 2).flatten(2)
    return (
        (pairs.transpose(1, 2) @ pairs)
        .unflatten(2, (2, 6))
        .unflatten(1, (2, 6))
    )


def _plane_chunks(planes: Tensor) -> list[slice]:
    # The three columns of two maps, float64.
    elements = 4 * RADIUS * planes[0].numel()
    return chunks(planes.device, len(planes), elements)


def _centred(probs: Tensor, labels: Tensor) -> Tensor:
    """Stack maps to (P, 2, h, w), float64.

    Their mean is taken off: what it would add to the products cancels in
    the covariance, but for the rounding.
    """
    maps = torch.stack((probs, labels), dim=1).double()
    return maps - maps.mean(dim=(2, 3), keepdim=True)


def _half_logdet(cov: Tensor) -> Tensor:
    """Half the log-determinant of the labels' covariance given the rest.

    It is that of a Schur complement, which is the lower right corner of a
    Cholesky factor. Unlike the inverse and the difference of the formula, this
    stays accurate where probabilities and labels agree.

    Args:
        cov (Tensor): Shape (P, 18, 18), from :class:`RegionCovariance`.

    Returns:
        Tensor: Shape (P,); NaN where ``cov`` is not finite.
    """
    # All probabilities before all labels.
    cov = cov.view(-1, REGION, 2, REGION, 2).permute(0, 2, 1, 4, 3)
    cov = cov.reshape(-1, 2 * REGION, 2 * REGION)
    alpha = torch.eye(2 * REGION, dtype=cov.dtype, device=cov.device)
    # Neither an exception nor a wait for the GPU, unlike linalg.cholesky.
    factor, info = torch.linalg.cholesky_ex(cov + POS_ALPHA * alpha)
    diagonal = factor.diagonal(dim1=1, dim2=2)[:, REGION:]
    values = (diagonal + LOG_MIN).log().sum(dim=1)
    return values.masked_fill(info != 0, math.nan)


def bce_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of every class.

    Args:
        logits (Tensor): Shape (N, C, H, W), float32 or float64.
        label (Tensor): Classes in [0, C), negative where ignored, shape
            (N, H, W), int64.

    Returns:
        Tensor: The sum over classes and pixels that count, divided by one
        more than the number of those pixels; 0 if there is none.
    """
    total, _, _ = PixelTerms.apply(logits, label, None)
    return (total / ((label >= 0).sum() + 1)).to(logits.dtype)


def rmi_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Half of the cross-entropy of :func:`bce_loss`, half of the RMI term.

    The RMI term is the mean over images, and the sum over classes, of half a
    log-determinant divided by 9. A class that an image does not have adds
    the constant 0.5 * log(5e-4) = -3.8 to the term, and no gradient.

    Args:
        logits (Tensor): Shape (N, C, H, W), float32 or float64, of at least
            :data:`MIN_SIZE` pixels per side.
        label (Tensor): As for :func:`bce_loss`.

    Returns:
        Tensor: The loss, negative where the prediction is good.
    """
    present = present_classes(label, logits.shape[1])
    total, probs, labels = PixelTerms.apply(logits, label, present)
    bce = total / ((label >= 0).sum() + 1)
    pairs = [i for i, flag in enumerate(chain(*present)) if flag]
    probs, labels = probs.flatten(0, 1), labels.flatten(0, 1)
    if len(pairs) < len(probs):
        index = torch.tensor(pairs, dtype=torch.long, device=label.device)
        probs, labels = probs[index], labels[index]
    rmi = rmi_of_pairs(probs, labels, *logits.shape[:2])
    return (LAMBDA * bce + (1 - LAMBDA) * rmi).to(logits.dtype)


def rmi_of_pairs(
    probs: Tensor, labels: Tensor, batch: int, num_classes: int
) -> Tensor:
    """Compute the RMI term; differentiable in the probabilities.

    Args:
        probs (Tensor): Pooled probabilities of the classes that the images
            have, (P, h, w); all others count as a constant.
        labels (Tensor): Shares of the classes in the same windows, likewise.
        batch (int): N.
        num_classes (int): C.

    Returns:
        Tensor: The term, float64.
    """
    absent = math.log(math.sqrt(POS_ALPHA) + LOG_MIN)
    constant = (batch * num_classes - len(probs)) * absent / batch
    rmi = probs.new_full((), constant, dtype=torch.float64)
    if len(probs):
        cov = RegionCovariance.apply(probs, labels)
        rmi = rmi + _half_logdet(cov).sum() / (REGION * batch)
    return rmi


def present_classes(label: Tensor, num_classes: int) -> list[list[bool]]:
    """By image and class, whether the class may have a gradient."""
    if label.device.type != 'cpu':  # To ask would wait for the GPU.
        return [[True] * num_classes] * len(label)
    counts = [
        torch.bincount(one.flatten() + 1, minlength=num_classes + 1)
        for one in label
    ]
    return [(count[1:] > 0).tolist() for count in counts]
