"""MAE for images of any size.

Shape shorthand in this module:
    N: batch, C: channels, h, w: size of an image in patches, T: tokens,
    1 + h * w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.models.backbones import MAE
from mmseg.registry import MODELS
from torch import Tensor

from .any_size_beit import PatchGrid, forward_at_any_size, patch_grid


@MODELS.register_module()
class AnySizeMAE(MAE):
    """mmseg's MAE, for images of other sizes than ``img_size`` too.

    As :class:`AnySizeBEiT`; the embedding of positions is interpolated as
    well, in the way in which mmseg does when it loads pre-trained weights
    (``MAE.resize_abs_pos_embed``). Arguments and state-dict keys are those
    of mmseg's :class:`MAE`, whose checkpoints load as they are.

    Args:
        *args: As in mmseg's :class:`MAE`.
        **kwargs: As in mmseg's :class:`MAE`.
    """

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W) to features (N, C, h, w) of some layers."""
        grid = patch_grid(inputs, self.patch_size)
        if grid == self.window_size:
            return super().forward(inputs)
        return forward_at_any_size(self, inputs, self._resized_pos_embed(grid))

    def _resized_pos_embed(self, grid: PatchGrid) -> Tensor:
        """Embedding (1, T, C) of the positions in an image of (h, w)."""
        cls_token, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        patches = patches.transpose(1, 2).unflatten(2, self.window_size)
        patches = F.interpolate(
            patches, size=grid, mode='bicubic', align_corners=False
        )
        return torch.cat(
            (cls_token, patches.flatten(2).transpose(1, 2)), dim=1
        )
