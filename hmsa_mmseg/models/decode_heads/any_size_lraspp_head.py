"""LR-ASPP for images of any size."""

from __future__ import annotations

import torch.nn.functional as F
from mmseg.models.decode_heads import LRASPPHead
from mmseg.registry import MODELS
from torch import Tensor, nn


class _ClippedAvgPool2d(nn.AvgPool2d):
    """Average pooling whose window is cut to the size of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, h, w) with windows of at most (h, w)."""
        kernel = [min(self.kernel_size, length) for length in x.shape[2:]]
        return F.avg_pool2d(x, kernel, self.stride)


@MODELS.register_module()
class AnySizeLRASPPHead(LRASPPHead):
    """mmseg's LR-ASPP head, for features smaller than its pooling window.

    Its global branch averages windows of 49 x 49 pixels of the features and
    fails on smaller ones, such as those of a 512 x 1024 crop at scale 0.5
    (32 x 64). Here windows are cut to the features; where they fit, the two
    are equal. Arguments and state-dict keys are those of mmseg's
    :class:`LRASPPHead`, whose checkpoints load as they are.

    Args:
        *args: As in mmseg's :class:`LRASPPHead`.
        **kwargs: As in mmseg's :class:`LRASPPHead`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        pool = self.image_pool[0]
        self.image_pool[0] = _ClippedAvgPool2d(pool.kernel_size, pool.stride)
