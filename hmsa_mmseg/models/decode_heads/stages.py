"""What every way of combining scales does with the seg heads' outputs.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: head
    output size at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, SampleList
from torch import Tensor, nn

from ..fast.row_losses import LazyOutput, loss_of_logits
from ..fast.row_losses_walk import RowLogits
from ..scale_fusion import fuse_scales
from .base_multi_scale_head import BaseMultiScaleHead
from .seg_head_outputs import HeadOutput, SegHeadOutputs


def at_input_size(
    scale: float,
    logits: Tensor,
    input_size: Sequence[int],
    align_corners: bool,
) -> Tensor:
    """Bring the map of one scale to the size of the input.

    By way of the size of the image at that scale, as in the authors' code
    (NVIDIA/semantic-segmentation, network/attnscale.py, ``_fwd`` and
    ``_forward_fused``).

    Args:
        scale (float): Relative image size.
        logits (Tensor): Shape (N, K, h, w).
        input_size (Sequence[int]): Size (H, W) of the input image.
        align_corners (bool): As in ``F.interpolate``.

    Returns:
        Tensor: Shape (N, K, H, W), float32 or float64.
    """
    return fuse_scales([(scale, logits, None)], input_size, align_corners)


def combine_stages(
    seg_outputs: Sequence[SegHeadOutputs],
    combine: Callable[[Sequence[Tensor]], Tensor | RowLogits],
) -> list[LazyOutput]:
    """Combine the scales' outputs, each seg head's each map on its own.

    Args:
        seg_outputs (Sequence[SegHeadOutputs]): One for each scale.
        combine (Callable): Makes one map (N, K, H, W), or what it is to be
            made of, of those of all scales, (N, K, h, w) each.

    Returns:
        list[Tensor | RowLogits | tuple]: Per seg head the structure that its
        ``forward`` gives. Outputs for the whole image (EncHead's presence
        of classes) have no pixels to combine and are averaged.
    """

    def over_scales(per_scale: Sequence[HeadOutput]) -> LazyOutput:
        if not isinstance(per_scale[0], Tensor):
            return tuple(over_scales(leaves) for leaves in zip(*per_scale))
        if per_scale[0].dim() != 4:
            return torch.stack(tuple(per_scale)).mean(dim=0)
        return combine(per_scale)

    return [over_scales(s) for s in zip(*(out.stages for out in seg_outputs))]


def build_losses(cfg: ConfigType | list[ConfigType] | None) -> nn.ModuleList:
    """Build the losses that a config, a list of configs or None names."""
    cfgs = [cfg] if isinstance(cfg, dict) else cfg or []
    return nn.ModuleList(map(MODELS.build, cfgs))


def losses_of_scales(
    head: BaseMultiScaleHead,
    scales: Sequence[float],
    seg_outputs: Sequence[SegHeadOutputs],
    input_size: Sequence[int],
    batch_data_samples: SampleList,
) -> dict[str, Tensor]:
    """Compute the losses ``head.loss_scale`` of every single scale.

    Args:
        head (BaseMultiScaleHead): With ``loss_scale``, a list of losses.
        scales (Sequence[float]): Relative image sizes.
        seg_outputs (Sequence[SegHeadOutputs]): One for each scale.
        input_size (Sequence[int]): Size (H, W) of the input image.
        batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.

    Returns:
        dict[str, Tensor]: ``scale_<s>.<loss_name>``; losses of one name add
        up. Empty in training with frozen seg heads, as they are constants
        there.
    """
    is_constant = torch.is_grad_enabled() and not any(
        outputs.seg_logits.requires_grad for outputs in seg_outputs
    )
    losses: dict[str, Tensor] = {}
    if len(head.loss_scale) == 0 or is_constant:
        return losses
    seg_label = torch.stack(
        [sample.gt_sem_seg.data for sample in batch_data_samples]
    ).squeeze(1)
    for scale, outputs in zip(scales, seg_outputs):
        logits = RowLogits(
            (scale,),
            (outputs.seg_logits,),
            (None,),
            tuple(input_size),
            head.align_corners,
        )
        full = None if head.fast else logits.full()
        for loss_module in head.loss_scale:
            key = f'scale_{scale:g}.{loss_module.loss_name}'
            if head.fast:
                value = loss_of_logits(
                    loss_module, logits, seg_label, head.ignore_index
                )
            else:
                value = loss_module(
                    full, seg_label, ignore_index=head.ignore_index
                )
            losses[key] = losses[key] + value if key in losses else value
    return losses
