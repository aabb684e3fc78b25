"""What every way of combining scales does with the seg heads' outputs.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: head
    output size at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.knet_head import IterativeDecodeHead
from mmseg.utils import ConfigType, SampleList, add_prefix
from torch import Tensor, nn

from ..scale_fusion import fuse_scales
from ..tiled.logit_rows import FusedLogits, LogitRows
from .seg_heads import HeadOutput, SegHeadOutputs
from .tile_losses import CombinedOutput, loss_of_logits, losses_of_head


def at_input_size(
    scale: float,
    logits: Tensor,
    input_size: Sequence[int],
    align_corners: bool,
) -> Tensor:
    """Bring the map (N, K, h, w) of one scale to the size of the input.

    By way of the size of the image at that scale, as in the authors' code
    (NVIDIA/semantic-segmentation, network/attnscale.py, ``_fwd`` and
    ``_forward_fused``); float32 or float64.
    """
    return fuse_scales([(scale, logits, None)], input_size, align_corners)


def combine_outputs(
    seg_outputs: Sequence[SegHeadOutputs],
    combine: Callable[[Sequence[Tensor]], Tensor | LogitRows],
) -> Iterator[CombinedOutput]:
    """For each seg head, combine each of its maps over the scales.

    One head after the other: the maps of one may be gone before the next.
    Yields the structure that the head's ``forward`` gives. Outputs for the
    whole image (EncHead's presence of classes) have no pixels to combine and
    are averaged.
    """

    def over_scales(per_scale: Sequence[HeadOutput]) -> CombinedOutput:
        if not isinstance(per_scale[0], Tensor):
            return tuple(over_scales(leaves) for leaves in zip(*per_scale))
        if per_scale[0].dim() != 4:
            return torch.stack(tuple(per_scale)).mean(dim=0)
        return combine(per_scale)

    return map(over_scales, zip(*(out.outputs for out in seg_outputs)))


def losses_of_heads(
    heads: Sequence[nn.Module],
    outputs: Iterable[CombinedOutput],
    batch_data_samples: SampleList,
    fast: bool,
) -> dict[str, Tensor]:
    """Let each seg head of a cascade compute its own losses.

    On combined outputs at the input's size, made or, if ``fast``, yet to be
    made: ``decode.*`` for the last seg head, ``aux.*`` for the one before it
    (``aux_0.*``, ``aux_1.*``, ... if there are several).
    """
    prefixes = [f'aux_{i}' for i in range(len(heads) - 1)]
    if len(prefixes) == 1:
        prefixes = ['aux']
    losses = {}
    for prefix, head, output in zip([*prefixes, 'decode'], heads, outputs):
        is_knet = isinstance(head, IterativeDecodeHead)
        if is_knet and not isinstance(output, tuple):
            # In evaluation, as a frozen seg head is, K-Net's gives its last
            # logits alone; its loss would take a batch for the list of them.
            output = (output,)
        if fast:
            found = losses_of_head(head, output, batch_data_samples)
        else:
            found = head.loss_by_feat(output, batch_data_samples)
        losses.update(add_prefix(found, prefix))
    return losses


def losses_of_aux_heads(
    auxiliary_head: nn.Module,
    feats: Sequence[Tensor],
    batch_data_samples: SampleList,
    train_cfg: ConfigType,
) -> dict[str, Tensor]:
    """Losses of the auxiliary head or heads, in tiles of rows where possible.

    What the ``loss`` of each gives, up to rounding; keys are mmseg's:
    ``aux.*``, of a list of heads ``aux_0.*``, ``aux_1.*``, ...
    """
    heads = {'aux': auxiliary_head}
    if isinstance(auxiliary_head, nn.ModuleList):
        heads = {f'aux_{i}': head for i, head in enumerate(auxiliary_head)}
    losses = {}
    input_size = batch_data_samples[0].gt_sem_seg.shape
    for prefix, head in heads.items():
        if type(head).loss is BaseDecodeHead.loss:
            logits = head.forward(feats)
            if isinstance(logits, Tensor):
                logits = FusedLogits(
                    *((1.0,), (logits,), (None,)),
                    *(input_size, head.align_corners),
                )
            found = losses_of_head(head, logits, batch_data_samples)
        else:
            found = head.loss(feats, batch_data_samples, train_cfg)
        losses.update(add_prefix(found, prefix))
    return losses


def losses_of_scales(
    loss_scale: Sequence[nn.Module],
    scale_logits: Sequence[tuple[float, Tensor]],
    input_size: Sequence[int],
    batch_data_samples: SampleList,
    align_corners: bool,
    ignore_index: int,
    fast: bool,
) -> dict[str, Tensor]:
    """Compute the losses of every single scale from its logits (N, K, h, w).

    ``scale_<s>.<loss_name>``; losses of one name add up. Empty in training
    with frozen seg heads, as they are constants there.
    """
    is_constant = torch.is_grad_enabled() and not any(
        logits.requires_grad for _, logits in scale_logits
    )
    losses: dict[str, Tensor] = {}
    if len(loss_scale) == 0 or is_constant:
        return losses
    samples = [sample.gt_sem_seg.data for sample in batch_data_samples]
    label = torch.stack(samples).squeeze(1)
    for scale, logits in scale_logits:
        if fast:
            one = (scale,), (logits,), (None,)
            rows = FusedLogits(*one, input_size, align_corners)
        else:
            whole = at_input_size(scale, logits, input_size, align_corners)
        for module in loss_scale:
            if fast:
                value = loss_of_logits(module, rows, label, ignore_index)
            else:
                value = module(whole, label, ignore_index=ignore_index)
            key = f'scale_{scale:g}.{module.loss_name}'
            losses[key] = losses[key] + value if key in losses else value
    return losses
