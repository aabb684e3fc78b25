"""Region mutual information (RMI) as it is defined, for reading.

The loss of `Region Mutual Information Loss for Semantic Segmentation
<https://arxiv.org/abs/1910.12037>`_ (Zhao et al. 2019), as the authors of
hierarchical multi-scale attention use it (NVIDIA/semantic-segmentation,
loss/rmi.py), whose constants these are. :mod:`.rmi_tiles` computes the same in
less time and memory.

Shape shorthand in this module:
    N: batch, C: classes, H, W: size of logits and labels, h, w: size of the
    pooled maps, D: pixels of a region, P: regions of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: A region is RADIUS x RADIUS neighbours of a pooled map.
RADIUS = 3
#: Maps are averaged over POOL x POOL pixels, with PADDING zeros around them,
#: which count.
POOL = 4
PADDING = POOL // 2
#: Added to probabilities, to the diagonals of covariances and to what a
#: logarithm is taken of.
CLIP_MIN, ALPHA, LOG_MIN = 1e-6, 5e-4, 1e-8
#: Share of the cross-entropy in the loss; the rest is the RMI term's.
LAMBDA = 0.5

REGION = RADIUS * RADIUS


def bce_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of every class.

    Args:
        logits (Tensor): Shape (N, C, H, W), float32 or float64.
        label (Tensor): Classes in [0, C), negative where ignored, shape (N, H,
            W), int64.

    Returns:
        Tensor: The sum over classes and pixels that count, divided by one more
            than the number of those pixels; 0 if there is none.
    """
    one_hot, mask = _one_hot(label, logits)
    entropy = F.binary_cross_entropy_with_logits(
        logits, one_hot, weight=mask, reduction='sum'
    )
    return entropy / (mask.sum() + 1)


def rmi_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Half of the cross-entropy of :func:`bce_loss`, half of the RMI term.

    The term is half the log-determinant of the covariance of the labels'
    regions given those of the probabilities, ``cov(Y) - cov(Y, P) cov(P)^-1
    cov(Y, P)^T``, divided by D: the mean over images, the sum over classes. A
    class that an image does not have adds the constant 0.5 * log(5e-4) = -3.8
    to it, and no gradient. Arguments are those of :func:`bce_loss`, of at
    least 8 pixels per side: one region once pooled.
    """
    one_hot, mask = _one_hot(label, logits)
    probs = logits.sigmoid() * mask + CLIP_MIN
    pr, la = (_centred_regions(x) for x in (probs, one_hot))
    alpha = ALPHA * torch.eye(REGION, dtype=pr.dtype, device=pr.device)
    pr_cov = pr @ pr.mT + alpha
    la_pr = la @ pr.mT
    cov = la @ la.mT - la_pr @ torch.linalg.solve(pr_cov, la_pr.mT)
    diagonal = torch.linalg.cholesky(cov + alpha).diagonal(dim1=-2, dim2=-1)
    half_logdet = (diagonal + LOG_MIN).log().sum(dim=-1)
    rmi = half_logdet.sum(dim=1).mean() / REGION
    loss = LAMBDA * bce_loss(logits, label) + (1 - LAMBDA) * rmi
    return loss.to(logits.dtype)


def _one_hot(label: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as (N, C, H, W), and 1 where they count, (N, 1, H, W)."""
    mask = (label >= 0)[:, None].to(like.dtype)
    one_hot = torch.zeros_like(like)
    one_hot.scatter_(1, label.clamp_min(0)[:, None], mask)
    return one_hot, mask


def _centred_regions(x: Tensor) -> Tensor:
    """Regions of pooled maps (N, C, H, W), (N, C, D, P), float64."""
    x = F.avg_pool2d(x, POOL, POOL, padding=PADDING).double()
    x = x.unfold(2, RADIUS, 1).unfold(3, RADIUS, 1)
    x = x.flatten(4).flatten(2, 3).mT
    return x - x.mean(dim=3, keepdim=True)
