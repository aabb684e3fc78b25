"""Seg heads on a pyramid of features without what costs and changes nothing.

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
and the last convolution reads context and features one after the other.
Without gradients, what follows ``objects`` is computed a few rows at a time,
in the place of the features, and norms that are affine are part of the
convolutions.

Shape shorthand in this module:
    N: batch, K: output channels (classes), C: channels, h, w: size of the
    first level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Optional

import torch
from mmengine.logging import print_log
from mmseg.models.decode_heads import FCNHead, OCRHead
from torch import Tensor, nn

from .head_structure import is_fcn, is_ocr, is_untouched
from .pointwise import pointwise
from .seg_head_parts import (
    activate,
    classify,
    conv_weights,
    finish,
    folded,
    is_constant,
    levels_conv,
)
from .tiles import kind_of
from .tracing import is_tracing

#: Logits of each head, and the input of the last classifier, if asked for.
FastOutputs = tuple[tuple[Tensor, ...], Optional[Tensor]]
#: Runs heads on features; whether to keep the last classifier's input.
FastHeads = Callable[[Sequence[Tensor], bool], FastOutputs]

#: Pixels of a tile. What is made of it, of 512 channels at most, fits into a
#: processor's cache; a GPU has to be filled.
_TILE_PIXELS = {'cpu': 2048, 'cuda': 1 << 16}


def fast_heads(heads: Sequence[nn.Module]) -> FastHeads | None:
    """Find a fast way through seg heads.

    Args:
        heads (Sequence[nn.Module]): The seg heads of a cascade, or one.

    Returns:
        Callable | None: Takes the features of the backbone, (N, C, h, w)
        each, and whether the input of the last classifier is wanted; gives
        the logits (N, K, h, w) of each head, and that input, after dropout,
        or None. None if these heads have to be called.
    """
    if is_tracing():
        return None
    if all(map(is_untouched, heads)):
        if len(heads) == 1 and is_fcn(heads[0]):
            return partial(_fcn, heads[0])
        if len(heads) == 2 and is_fcn(heads[0]) and is_ocr(heads[1]):
            return partial(_ocr, *heads)
    if isinstance(heads[-1], OCRHead):
        _say_that_it_is_plain()
    return None


@lru_cache(maxsize=1)
def _say_that_it_is_plain() -> None:
    print_log(
        'OCRHead is computed layer by layer, which takes more time and '
        "memory: its layers or those of the head before it are not mmseg's "
        'usual ones, or have hooks',
        logger='current',
    )


def _fcn(
    head: FCNHead, feats: Sequence[Tensor], with_classifier_feats: bool
) -> FastOutputs:
    """Run an FCNHead."""
    if not with_classifier_feats and is_constant(head, feats):
        return (_fcn_in_rows(head, feats),), None
    logits, classifier_feats = _fcn_whole(head, feats)
    return (logits,), classifier_feats if with_classifier_feats else None


def _ocr(
    fcn: FCNHead,
    ocr: OCRHead,
    feats: Sequence[Tensor],
    with_classifier_feats: bool,
) -> FastOutputs:
    """Run OCRNet's heads."""
    if is_constant(fcn, feats) and is_constant(ocr, feats):
        aux_logits = _fcn_in_rows(fcn, feats)
        logits, classifier_feats = _ocr_in_rows(
            ocr, feats, aux_logits, with_classifier_feats
        )
    else:
        aux_logits, _ = _fcn_whole(fcn, feats)
        logits, classifier_feats = _ocr_whole(ocr, feats, aux_logits)
    stages = aux_logits, logits
    return stages, classifier_feats if with_classifier_feats else None


def _fcn_whole(
    head: FCNHead, feats: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    first, *others = head.convs
    x = levels_conv(head, feats, *conv_weights(first.conv)).whole()
    x = finish(first, x)
    for module in others:
        x = module(x)
    return classify(head, x)


def _fcn_in_rows(head: FCNHead, feats: Sequence[Tensor]) -> Tensor:
    """Logits of an FCNHead; of 1x1 convolutions nothing else is kept."""
    with torch.no_grad():
        first, *others = head.convs
        conv = levels_conv(head, feats, *folded(first))
        if conv.kernel_size > 1 or others:
            x = activate(first, conv.whole())
            for module in others:
                x = module(x)
            return classify(head, x)[0]
        tiles = [
            classify(head, activate(first, tile))[0] for _, tile in conv.rows()
        ]
        return torch.cat(tiles, dim=2)


def _class_vectors(
    head: OCRHead, feats: Tensor, aux_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys (N, C, K), scaled, and values (N, C, K, 1) of the classes."""
    block = head.object_context_block
    objects = head.spatial_gather_module(feats, aux_logits)
    key = block.key_project(objects).flatten(2)
    if block.matmul_norm:
        key = key * block.channels**-0.5
    return key, block.value_project(objects)


def _blend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Add up the classes' values, weighted in each pixel.

    Args:
        query (Tensor): Shape (N, C, h, w).
        key (Tensor): Shape (N, C, K).
        value (Tensor): Shape (N, D, K, 1).

    Returns:
        Tensor: Shape (N, D, h, w), channels_last.
    """
    size = query.shape[2:]
    query = query.flatten(2).transpose(1, 2)
    weights = torch.matmul(query, key).softmax(dim=-1)
    found = torch.matmul(weights, value.squeeze(3).transpose(1, 2))
    return found.transpose(1, 2).unflatten(2, size)


def _split_bottleneck(
    weight: Tensor, bias: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Convolutions of context and of features; their sum is the whole."""
    of_context, of_feats = weight.chunk(2, dim=1)
    return (
        partial(pointwise, weight=of_context, bias=bias),
        partial(pointwise, weight=of_feats),
    )


def _ocr_whole(
    head: OCRHead, feats: Sequence[Tensor], aux_logits: Tensor
) -> tuple[Tensor, Tensor]:
    block = head.object_context_block
    x = levels_conv(head, feats, *conv_weights(head.bottleneck.conv)).whole()
    x = finish(head.bottleneck, x)
    key, value = _class_vectors(head, x, aux_logits)
    value = pointwise(value, *conv_weights(block.out_project.conv))
    query = x
    for module in block.query_project:
        query = finish(module, pointwise(query, *conv_weights(module.conv)))
    context = finish(block.out_project, _blend(query, key, value))
    of_context, of_feats = _split_bottleneck(
        *conv_weights(block.bottleneck.conv)
    )
    result = of_feats(x).add_(of_context(context))
    return classify(head, finish(block.bottleneck, result))


def _ocr_in_rows(
    head: OCRHead,
    feats: Sequence[Tensor],
    aux_logits: Tensor,
    with_classifier_feats: bool,
) -> tuple[Tensor, Tensor]:
    """The same without gradients.

    What the classifier reads takes the place of the features, if wanted.
    """
    with torch.no_grad():
        block = head.object_context_block
        x = levels_conv(head, feats, *folded(head.bottleneck)).whole()
        x = activate(head.bottleneck, x)
        key, value = _class_vectors(head, x, aux_logits)
        value = pointwise(value, *folded(block.out_project))
        query_weights = [folded(module) for module in block.query_project]
        of_context, of_feats = _split_bottleneck(*folded(block.bottleneck))
        logits = []
        for n, tile in _tiles(x):
            query = tile
            for module, weights in zip(block.query_project, query_weights):
                query = activate(module, pointwise(query, *weights))
            context = _blend(query, key[n], value[n])
            context = activate(block.out_project, context)
            result = of_feats(tile).add_(of_context(context))
            result = activate(block.bottleneck, result)
            logits.append(classify(head, result)[0])
            if with_classifier_feats:
                # Nothing reads these pixels' features any more.
                tile.copy_(result)
        return _join(logits, x.shape), x


def _tiles(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield which image, and rows of it, (1, C, rows, w)."""
    step = max(_TILE_PIXELS[kind_of(x.device)] // x.shape[3], 1)
    for n in range(len(x)):
        image = slice(n, n + 1)
        for tile in x[image].split(step, dim=2):
            yield image, tile


def _join(tiles: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Put the tiles of :func:`_tiles` together, (N, K, h, w)."""
    per_image = len(tiles) // shape[0]
    images = [
        torch.cat(tiles[i : i + per_image], dim=2)
        for i in range(0, len(tiles), per_image)
    ]
    return images[0] if len(images) == 1 else torch.cat(images)
