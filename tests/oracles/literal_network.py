"""The authors' network and its order of operations, from mmseg's layers.

The same weights as a :class:`MultiScaleAttentionSegmentor` around OCRNet, run
as NVIDIA/semantic-segmentation (network/ocrnet.py, ``MscaleOCR``) runs its
own: one concatenation of all features, no layer in place outside the
backbone, attention at every scale, every map enlarged to the full size of its
scale before anything is blended, the auxiliary maps blended at test time too,
and everything kept until the end. It is what this package is raced against
where the authors' program is not at hand, and is compared with it where it is.

Shape shorthand in this module:
    N: batch, K: classes, C: channels of the classifier's input, H, W: input
    size, h, w: size of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FCNHead, OCRHead
from torch import Tensor, nn

from oracles.literal_rmi import literal_rmi_loss


class ScaleMaps(NamedTuple):
    """Maps of one scale at its own full size: (N, K or 1, H, W)."""

    main: Tensor
    aux: Tensor
    attn: Tensor


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """The authors' ``Upsample``, kept out of half precision by apex."""
    return scale_as(x.float() if x.element_size() < 4 else x, size)


def scale_as(x: Tensor, size: Sequence[int]) -> Tensor:
    """The authors' ``scale_as``, in the type of ``x``."""
    return F.interpolate(
        x, size=tuple(size), mode='bilinear', align_corners=False
    )


def _conv_bn_relu(layers: ConvModule, x: Tensor) -> Tensor:
    """Run a ConvModule; all its maps stay until the last one is made.

    As the maps of the authors' nested ``nn.Sequential`` do.
    """
    convolved = layers.conv(x)
    normed = layers.norm(convolved)
    return F.relu(normed)


def blend_lower(lo: ScaleMaps, main: Tensor, aux: Tensor) -> list[Tensor]:
    """Blend the maps of a lower scale, enlarged, into those of higher ones.

    Returns:
        list[Tensor]: The blended main and auxiliary logits, (N, K, H, W), and
        the enlarged maps of the lower scale, which the authors' variables
        hold to the end as well.
    """
    size = main.shape[2:]
    lo_main = scale_as(lo.attn * lo.main, size)
    lo_aux = scale_as(lo.attn * lo.aux, size)
    attn = scale_as(lo.attn, size)
    main = lo_main + (1 - attn) * main
    aux = lo_aux + (1 - attn) * aux
    return [main, aux, lo_main, lo_aux, attn]


def blend_scales(
    outputs: Iterable[tuple[float, ScaleMaps]],
) -> tuple[Tensor, Tensor]:
    """Blend scales, highest first, as ``nscale_forward`` does.

    Args:
        outputs (Iterable[tuple]): ``(scale, maps)`` with falling scales.

    Returns:
        tuple[Tensor, Tensor]: Main and auxiliary logits, (N, K, H, W).
    """
    main = aux = None
    for scale, maps in outputs:
        if main is None:
            main, aux = maps.main, maps.aux
        elif scale >= 1:
            size = maps.main.shape[2:]
            main = scale_as(main, size)
            main = maps.attn * maps.main + (1 - maps.attn) * main
            aux = scale_as(aux, size)
            aux = maps.attn * maps.aux + (1 - maps.attn) * aux
        else:
            main, aux, *_ = blend_lower(maps, main, aux)
    return main, aux


def full_loss(
    main: Tensor,
    aux: Tensor,
    single_scales: Sequence[Tensor],
    label: Tensor,
    criterion: Callable[..., Tensor] = literal_rmi_loss,
) -> Tensor:
    """Add up the losses of the authors' Cityscapes recipe.

    Args:
        main (Tensor): Blended logits, (N, K, H, W).
        aux (Tensor): Blended auxiliary logits, (N, K, H, W).
        single_scales (Sequence[Tensor]): Logits of each scale, (N, K, H, W).
        label (Tensor): Shape (N, H, W), int64.
        criterion (Callable): Called with logits, labels and ``with_rmi``.

    Returns:
        Tensor: Weights: config.py ``LOSS.OCR_ALPHA`` and
        train_cityscapes.yml ``supervised_mscale_loss_wt``.
    """
    loss = 0.4 * criterion(aux, label, with_rmi=False)
    loss = loss + criterion(main, label, with_rmi=True)
    for logits in single_scales:
        loss = loss + 0.05 * criterion(logits, label, with_rmi=False)
    return loss


class LiteralNetwork(nn.Module):
    """The authors' ``MscaleOCR``, with the layers of a model of ours.

    Args:
        model (nn.Module): Whose seg heads are those of OCRNet in mmseg.
        scales (Sequence[float]): Scales of inference.

    Raises:
        TypeError: If the seg heads are others.
    """

    def __init__(
        self, model: nn.Module, scales: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> None:
        super().__init__()
        types = [type(head) for head in model.decode_head.seg_heads]
        if types != [FCNHead, OCRHead]:
            raise TypeError(f'expected FCNHead and OCRHead, got {types}')
        self.backbone = model.backbone
        self.aux_head, self.ocr_head = model.decode_head.seg_heads
        self.scale_attn = model.decode_head.scale_attn
        self.scales = sorted(scales, reverse=True)

    def run_scale(self, x: Tensor) -> ScaleMaps:
        """Run the network on images (N, 3, H, W) of one scale."""
        first, *others = self.backbone(x)
        size = first.shape[2:]
        others = [scale_as(level, size) for level in others]
        feats = torch.cat([first, *others], dim=1)
        del first, others
        main, aux, ocr_feats = self._ocr(feats)
        attn = self.scale_attn(ocr_feats)
        size = x.shape[2:]
        aux = upsample(aux, size)
        main = upsample(main, size)
        return ScaleMaps(main, aux, upsample(attn, size))

    def _ocr(self, concat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        head = self.ocr_head
        feats = _conv_bn_relu(head.bottleneck, concat)
        (aux_conv,) = self.aux_head.convs
        aux = self.aux_head.conv_seg(_conv_bn_relu(aux_conv, concat))
        context = head.spatial_gather_module(feats, aux)
        ocr_feats = self._object_context(feats, context)
        return head.conv_seg(ocr_feats), aux, ocr_feats

    def _object_context(self, feats: Tensor, context: Tensor) -> Tensor:
        block = self.ocr_head.object_context_block
        mixed = self._mix_context(feats, context)
        output = _conv_bn_relu(block.bottleneck, torch.cat([mixed, feats], 1))
        dropout = self.ocr_head.dropout
        return output if dropout is None else dropout(output)

    def _mix_context(self, query: Tensor, key: Tensor) -> Tensor:
        """Give every pixel the classes' features that it is closest to."""
        block = self.ocr_head.object_context_block
        size = query.shape[2:]
        value = _conv_bn_relu(block.value_project, key).flatten(2)
        for layers in block.query_project:
            query = _conv_bn_relu(layers, query)
        for layers in block.key_project:
            key = _conv_bn_relu(layers, key)
        query = query.flatten(2).transpose(1, 2)
        similarity = torch.matmul(query, key.flatten(2))
        similarity = (block.channels**-0.5) * similarity
        similarity = F.softmax(similarity, dim=-1)
        mixed = torch.matmul(similarity, value.transpose(1, 2))
        mixed = mixed.transpose(1, 2).contiguous()
        return _conv_bn_relu(block.out_project, mixed.unflatten(2, size))

    def _resize_image(self, x: Tensor, scale: float) -> Tensor:
        return F.interpolate(
            x,
            scale_factor=scale,
            mode='bilinear',
            align_corners=False,
            recompute_scale_factor=True,
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Predict from all scales.

        Args:
            x (Tensor): Images, (N, 3, H, W).

        Returns:
            dict[str, Tensor]: ``pred``, the blended logits (N, K, H, W), and
            the logits and attention of each scale.
        """
        kept = {}

        def outputs() -> Iterator[tuple[float, ScaleMaps]]:
            for scale in self.scales:
                maps = self.run_scale(self._resize_image(x, scale))
                kept[f'pred_{scale}x'] = maps.main
                kept[f'attn_{scale}x'] = maps.attn
                yield scale, maps

        main, _ = blend_scales(outputs())
        return dict(kept, pred=main)

    def loss(self, x: Tensor, label: Tensor, **kwargs) -> Tensor:
        """Train on scales 0.5 and 1.0, as ``two_scale_forward`` does.

        Args:
            x (Tensor): Images, (N, 3, H, W).
            label (Tensor): Shape (N, H, W), int64.
            **kwargs: For :func:`full_loss`.

        Returns:
            Tensor: The loss.
        """
        lo = self.run_scale(self._resize_image(x, 0.5))
        hi = self.run_scale(x)
        blended = blend_lower(lo, hi.main, hi.aux)
        singles = [scale_as(lo.main, x.shape[2:]), hi.main]
        return full_loss(*blended[:2], singles, label, **kwargs)
