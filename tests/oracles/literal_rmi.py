"""The RMI loss written down step by step, as its formula reads.

What :class:`hmsa_mmseg.models.losses.RMILoss` is checked and raced against.
Every step makes the whole tensor, as in the authors' program; that one runs on
CUDA alone, as it names the type of a CUDA tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 3
POOL = 4
POOL_PADDING = 2
CLIP = 1e-6
ALPHA = 5e-4
LAMBDA = 0.5


def literal_bce(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of every class, per labelled pixel.

    Args:
        logits (Tensor): Shape (N, C, H, W).
        label (Tensor): Class of each pixel, (N, H, W), int64; a pixel counts
            if its label is below C.

    Returns:
        Tensor: Sum over classes and labelled pixels, divided by one more
        than their number.
    """
    num_classes = logits.shape[1]
    mask = label < num_classes
    onehot = F.one_hot(label * mask, num_classes).to(logits.dtype)
    onehot = onehot * mask[..., None]
    flat_logits = logits.permute(0, 2, 3, 1).reshape(-1, num_classes)
    flat_mask = mask.reshape(-1, 1).to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(
        flat_logits,
        onehot.reshape(-1, num_classes),
        weight=flat_mask,
        reduction='sum',
    )
    return total / (flat_mask.sum() + 1.0)


def _regions(maps: Tensor) -> Tensor:
    """Pool maps (N, C, H, W) and take the 3x3 regions: (N, C, 9, L)."""
    maps = F.avg_pool2d(maps, POOL, POOL, POOL_PADDING)
    height = maps.shape[2] - RADIUS + 1
    width = maps.shape[3] - RADIUS + 1
    shifted = [
        maps[:, :, y : y + height, x : x + width]
        for y in range(RADIUS)
        for x in range(RADIUS)
    ]
    return torch.stack(shifted, dim=2).flatten(3)


def literal_rmi(logits: Tensor, label: Tensor) -> Tensor:
    """Lower bound of the region mutual information, summed over classes.

    Args:
        logits (Tensor): Shape (N, C, H, W).
        label (Tensor): As for :func:`literal_bce`.

    Returns:
        Tensor: Half the log-determinant of the labels' covariance given the
        predictions, divided by 9, the mean over images, summed over classes.
    """
    num_classes = logits.shape[1]
    mask = label < num_classes
    onehot = F.one_hot(label * mask, num_classes).to(logits.dtype)
    onehot = (onehot * mask[..., None]).permute(0, 3, 1, 2)
    probs = logits.sigmoid() * mask[:, None] + CLIP

    labels = _regions(onehot).double()
    probs = _regions(probs).double()
    labels = labels - labels.mean(dim=3, keepdim=True)
    probs = probs - probs.mean(dim=3, keepdim=True)

    half_d = RADIUS * RADIUS
    alpha = ALPHA * torch.eye(half_d, dtype=torch.float64).to(logits.device)
    labels_cov = labels @ labels.transpose(2, 3)
    probs_cov = probs @ probs.transpose(2, 3)
    cross_cov = labels @ probs.transpose(2, 3)
    inverse = torch.inverse(probs_cov + alpha)
    given = labels_cov - cross_cov @ inverse @ cross_cov.transpose(2, 3)
    factor = torch.linalg.cholesky(given + alpha)
    diagonal = factor.diagonal(dim1=2, dim2=3)
    half_logdet = (diagonal + 1e-8).log().sum(dim=2)
    return (half_logdet.mean(dim=0) / half_d).sum().to(logits.dtype)


def literal_rmi_loss(
    logits: Tensor, label: Tensor, with_rmi: bool = True
) -> Tensor:
    """The loss of the authors' recipes.

    Args:
        logits (Tensor): Shape (N, C, H, W).
        label (Tensor): As for :func:`literal_bce`.
        with_rmi (bool): Whether to add the RMI term. Defaults to True.

    Returns:
        Tensor: Half of each of the two terms, or the cross-entropy alone.
    """
    bce = literal_bce(logits, label)
    if not with_rmi:
        return bce
    return LAMBDA * bce + (1 - LAMBDA) * literal_rmi(logits, label)
