"""OCRNet's seg heads in less memory.

OCRNet's two heads (https://arxiv.org/abs/1909.11065), as mmseg has them,
compute in other words::

    aux = classify(norm(conv1x1(cat)))            cat: all levels, resized
    feats = norm(conv3x3(cat))
    objects = softmax_pixels(aux) @ feats         one vector for each class
    weights = softmax_classes(query(feats) @ key(objects))
    context = norm(conv1x1_out(weights @ value(objects)))
    result = classify(norm(conv1x1(cat(context, feats))))

Here the levels are not concatenated (:mod:`.pyramid_conv`); ``conv1x1_out``
acts on the vectors of the classes and not on those of all pixels, which is
the same, as the weights of the classes only add vectors up, to a sum of one;
and the last convolution reads context and features one after the other. At
test time, what follows ``objects`` is computed in tiles of rows, in the place
of the features.

Shape shorthand in this module:
    N: batch, K: output channels (classes), C: channels, h, w: size of the
    first level, R: rows of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FCNHead, OCRHead
from torch import Tensor, nn

from ..utils.execution import (
    costs_of,
    is_fixed_batch_norm,
    is_tracing,
    is_untouched,
)
from .made_again import made_again
from .pyramid_conv import conv_of_levels

_POINTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.GELU, nn.SiLU),
    *(nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Mish),
)

#: Logits of each head, and what the last classifier reads.
CascadeOutputs = tuple[tuple[Tensor, ...], Optional[Tensor]]


def tiled_heads(
    heads: Sequence[nn.Module],
) -> Callable[[Sequence[Tensor], bool], CascadeOutputs] | None:
    """Find a lean way through the seg heads of a cascade.

    It takes the features of the backbone, (N, C, h, w) each, and whether what
    the last classifier reads is wanted; it gives the logits (N, K, h, w) of
    each head, and that, after dropout, or None. None if these heads are to be
    called.
    """
    if is_tracing() or not _is_fcn(heads[0]):
        return None
    if len(heads) == 1:
        return partial(_fcn, heads[0])
    if len(heads) == 2 and _is_ocr(heads[1]):
        return partial(_ocr, *heads)
    return None


def _is_fcn(head: nn.Module) -> bool:
    """Whether a head is OCRNet's first: one 1x1 convolution of levels."""
    return (
        _reads_levels(head, FCNHead)
        and head.num_convs == 1
        and not head.concat_input
        and _is_plain(head.convs[0], 1)
    )


def _is_ocr(head: nn.Module) -> bool:
    """Whether a head is an OCRHead whose layers are as mmseg builds them."""
    if not _reads_levels(head, OCRHead):
        return False
    block = head.object_context_block
    return (
        block.query_downsample is None
        and _is_plain(head.bottleneck, 3)
        and _is_plain(block.out_project, 1)
        and _is_plain(block.bottleneck, 1)
    )


def _reads_levels(head: nn.Module, kind: type) -> bool:
    """Whether a head is of this very class and reads resized levels."""
    return (
        type(head) is kind
        and head.input_transform == 'resize_concat'
        and all(map(is_untouched, head.modules()))
    )


def _is_plain(module: nn.Module, kernel_size: int) -> bool:
    """Whether a module is a convolution that keeps the size, norm, act."""
    if type(module) is not ConvModule or type(module.conv) is not nn.Conv2d:
        return False
    conv = module.conv
    return (
        module.order == ('conv', 'norm', 'act')
        and not module.with_explicit_padding
        and conv.kernel_size == (kernel_size,) * 2
        and conv.padding == (kernel_size // 2,) * 2
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
    )


def _fcn(
    head: FCNHead, feats: Sequence[Tensor], with_classifier_feats: bool
) -> CascadeOutputs:
    """Run an FCNHead."""
    levels = [feats[i] for i in head.in_index]

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        return _classify(head, _stem(head, head.convs[0], levels, rows))

    tiles = _tiles(levels[0], head.convs[0], head.conv_seg, head.dropout)
    if not with_classifier_feats and len(tiles) > 1:
        logits = torch.cat([run(rows)[0] for rows in tiles], dim=2)
        return (logits,), None
    logits, classifier_feats = run(slice(0, levels[0].shape[2]))
    return (logits,), classifier_feats


def _ocr(
    fcn: FCNHead,
    ocr: OCRHead,
    feats: Sequence[Tensor],
    with_classifier_feats: bool,
) -> CascadeOutputs:
    """Run OCRNet's heads."""
    (aux_logits,), _ = _fcn(fcn, feats, False)
    levels = [feats[i] for i in ocr.in_index]
    block = ocr.object_context_block
    tiles = _tiles(
        *(levels[0], ocr.bottleneck, ocr.conv_seg, ocr.dropout),
        *(block.query_project, block.out_project, block.bottleneck),
    )
    x = _stem(ocr, ocr.bottleneck, levels, tiles[0])
    if len(tiles) == 1:
        classes = _classes(ocr, x, aux_logits)
        logits, x = _classify(ocr, _pixels(ocr, x, *classes))
        return (aux_logits, logits), x
    first, x = x, x.new_empty(*x.shape[:2], *levels[0].shape[2:])
    x[:, :, tiles[0]] = first
    del first
    for rows in tiles[1:]:
        x[:, :, rows] = _stem(ocr, ocr.bottleneck, levels, rows)
    classes = _classes(ocr, x, aux_logits)
    logits = []
    for rows in tiles:
        tile = _pixels(ocr, x[:, :, rows], *classes)
        # Nothing reads these pixels' features any more.
        tile_logits, x[:, :, rows] = _classify(ocr, tile)
        logits.append(tile_logits)
    logits = aux_logits, torch.cat(logits, dim=2)
    return logits, x if with_classifier_feats else None


def _stem(
    head: nn.Module, module: ConvModule, levels: Sequence[Tensor], rows: slice
) -> Tensor:
    """Run the ConvModule that reads all levels, (N, C, R, w)."""
    x = conv_of_levels(
        levels, module.conv.weight, module.conv.bias, head.align_corners, rows
    )
    return _finish(module, x)


def _finish(module: ConvModule, x: Tensor) -> Tensor:
    """Do what a ConvModule does after its convolution."""
    x = module.norm(x) if module.with_norm else x
    return module.activate(x) if module.with_activation else x


def _classify(head: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Classify each pixel: logits, and what the classifier reads."""
    if head.dropout is not None:
        x = head.dropout(x)
    return head.conv_seg(x), x


def _classes(
    head: OCRHead, feats: Tensor, aux_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys (N, C, K), scaled, and values (N, K, C) of the classes."""
    block = head.object_context_block
    objects = head.spatial_gather_module(feats, aux_logits)
    key = block.key_project(objects).flatten(2)
    if block.matmul_norm:
        key = key * block.channels**-0.5
    value = block.out_project.conv(block.value_project(objects))
    return key, value.flatten(2).transpose(1, 2)


def _pixels(head: OCRHead, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """From features (N, C, R, w) to what the classifier reads, but dropout."""
    block = head.object_context_block
    query = block.query_project(x).flatten(2).transpose(1, 2)
    # Under autocast softmax gives float32.
    weights = torch.matmul(query, key).softmax(dim=-1).to(value.dtype)

    def unfinished() -> Tensor:
        context = torch.matmul(weights, value).transpose(1, 2)
        return context.unflatten(2, x.shape[2:])

    context = unfinished()
    # From 19 channels 512 are quickly made.
    with made_again(context, unfinished, (weights, value)):
        context = _finish(block.out_project, context)
    conv = block.bottleneck.conv
    of_context, of_feats = conv.weight.chunk(2, dim=1)
    result = F.conv2d(context, of_context, conv.bias) + F.conv2d(x, of_feats)
    return _finish(block.bottleneck, result)


def _tiles(
    first: Tensor, stem: ConvModule, *layers: nn.Module | None
) -> list[slice]:
    """Rows that are computed at once: all, if a layer reads all pixels.

    The convolution of ``stem``, which reads all levels, is ours.
    """
    height = first.shape[2]
    norm = stem.norm if stem.with_norm else None
    activation = stem.activate if stem.with_activation else None
    layers = filter(None, (norm, activation, *layers))
    modules = (module for layer in layers for module in layer.modules())
    in_tiles = not torch.is_grad_enabled() and all(map(_is_local, modules))
    step = costs_of(first.device).ocr_rows if in_tiles else height
    return [slice(y, min(y + step, height)) for y in range(0, height, step)]


def _is_local(module: nn.Module) -> bool:
    """Whether a layer is known to treat each pixel alone, tiled or not."""
    if next(module.children(), None) is not None:
        return True  # Its layers are asked.
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1)
    if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
        return not module.training
    return type(module) in _POINTWISE or is_fixed_batch_norm(module)
