"""Inference within a stated number of bytes.

Exact as far as the network allows: images one after the other, scales one
after the other, their blend in tiles of rows. What cannot be cut without
changing the result is one pass of backbone and heads over one scale. How
much that takes is found beforehand (:mod:`.rehearsal`), once for each size of
images, which takes some seconds. If it is too much, it is an error, or, if
asked for, that scale is computed in overlapping windows (:mod:`.windows`), an
approximation.

Bytes are those of tensors made by the call, weights and images apart. What
kernels allocate by themselves, and what PyTorch's allocator keeps beyond
that, come on top: leave a tenth free. Results without logits are counted;
those that are made of whole logits come on top: class maps of 8 bytes a
pixel, logits at another size, and what ``slide`` mode makes of its mean.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: size of a scale's maps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..decode_heads.base_multi_scale_head import ScaleFeats
from ..decode_heads.hierarchical_ms_attention_head import ScaleMaps
from ..fast.logit_rows import LogitRows
from ..fast.tiles import limit_tiles
from ..scale_fusion import resize_image, scaled_size
from .budget_call import Call, Plan, ResultPlace, places_of
from .budget_plan import make_plan
from .rehearsal import product_dtype
from .windows import decode_in_windows, lay_windows

if TYPE_CHECKING:
    from ..segmentors.settings import InferenceSettings

# Made once for each size of images; gone with the model.
_plans: WeakKeyDictionary[nn.Module, dict[Call, Plan]] = WeakKeyDictionary()


def logits_within_budget(
    model: nn.Module,
    inputs: Tensor,
    settings: InferenceSettings,
    reserved: int = 0,
) -> Tensor:
    """Predict within ``settings.memory_budget``; without gradients.

    Args:
        model (nn.Module): A :class:`MultiScaleAttentionSegmentor`.
        inputs (Tensor): Images, shape (N, 3, H, W).
        settings (InferenceSettings): Its ``test_cfg``.
        reserved (int): Bytes of the budget that are taken. Defaults to 0.

    Returns:
        Tensor: Logits (N, K, H, W).

    Raises:
        ValueError: If it does not fit: the message names the budget, what is
            needed, and the ways out.
    """
    plan = plan_for(model, inputs, settings, None, reserved)
    predict = model.decode_head.predict
    results = None
    with torch.no_grad(), limit_tiles(plan.tile_bytes):
        for i in range(0, len(inputs), plan.batch):
            images = inputs[i : i + plan.batch]
            result = predict(
                _scales(model, images, settings, plan), images.shape[2:]
            )
            if plan.batch == len(inputs):
                return result
            if results is None:
                results = result.new_empty(len(inputs), *result.shape[1:])
            results[i] = result[0]
            # Memory that the next image may need.
            del result
    return results


def results_within_budget(
    model: nn.Module,
    inputs: Tensor,
    settings: InferenceSettings,
    metas: Sequence[Mapping] | None,
    finish: Callable[[LogitRows, slice], list],
) -> list:
    """Predict results without logits within ``settings.memory_budget``.

    Args:
        model (nn.Module): A :class:`MultiScaleAttentionSegmentor`.
        inputs (Tensor): Images, shape (N, 3, H, W).
        settings (InferenceSettings): Its ``test_cfg``.
        metas (Sequence[Mapping], optional): Of the images; None if results
            are to have the size of the input.
        finish (Callable): Makes the results of some images, of their logits
            and their place in the batch.

    Returns:
        list: The results of all images.

    Raises:
        ValueError: As :func:`logits_within_budget`.
    """
    if metas is None:
        metas = [dict(ori_shape=inputs.shape[2:])] * len(inputs)
    plan = plan_for(model, inputs, settings, places_of(metas))
    results = []
    with torch.no_grad(), limit_tiles(plan.tile_bytes):
        for i in range(0, len(inputs), plan.batch):
            images = inputs[i : i + plan.batch]
            seg_logits = model.decode_head.predict_rows(
                _scales(model, images, settings, plan), images.shape[2:]
            )
            results += finish(seg_logits, slice(i, i + plan.batch))
            # Memory that the next image may need.
            del seg_logits
    return results


def plan_for(
    model: nn.Module,
    inputs: Tensor,
    settings: InferenceSettings,
    places: tuple[ResultPlace, ...] | None = None,
    reserved: int = 0,
) -> Plan:
    """Find out, once for each size of images, how to fit into the budget.

    Args:
        model (nn.Module): A :class:`MultiScaleAttentionSegmentor`.
        inputs (Tensor): Images, shape (N, 3, H, W).
        settings (InferenceSettings): Its ``test_cfg``.
        places (tuple[ResultPlace], optional): If results are asked for.
            Defaults to None: logits are.
        reserved (int): Bytes of the budget that are taken. Defaults to 0.

    Returns:
        Plan: How the call is cut, with the bytes that it will take.

    Raises:
        ValueError: If it does not fit.
    """
    half = product_dtype(inputs.device)
    is_half = inputs.dtype == torch.float32 and half != torch.float32
    call = Call(
        tuple(inputs.shape),
        inputs.dtype,
        inputs.device,
        half if is_half else None,
        settings,
        places,
        reserved,
        model.decode_head.fuses_in_rows,
    )
    plans = _plans.setdefault(model, {})
    if call not in plans:
        plans[call] = make_plan(model, call)
        _say_windows(plans[call], call)
    return plans[call]


def forget_plans(model: nn.Module) -> None:
    """Find out again what a model takes, as its layers have changed."""
    _plans.pop(model, None)


def _scales(
    model: nn.Module,
    images: Tensor,
    settings: InferenceSettings,
    plan: Plan,
) -> Iterator[ScaleFeats | tuple[float, ScaleMaps]]:
    """Yield features, or of a scale in windows its maps, highest first."""
    for i, scale in enumerate(settings.scales[::-1]):
        if plan.windows[i] is None:
            yield from model._extract_scales(images, (scale,))
            continue
        maps = decode_in_windows(
            partial(_decode, model, with_attn=i > 0),
            resize_image(images, scale, model.align_corners),
            plan.windows[i],
            plan.map_sizes[i],
        )
        yield scale, maps


def _decode(model: nn.Module, window: Tensor, with_attn: bool) -> ScaleMaps:
    return model.decode_head.decode_scale(
        model.extract_feat(window), with_attn
    )


def _say_windows(plan: Plan, call: Call) -> None:
    """Name what is not exact."""
    for scale, window in zip(call.settings.scales[::-1], plan.windows):
        if window is None:
            continue
        size = scaled_size(call.size, scale)
        count = math.prod(
            len(lay_windows(*side)) for side in zip(size, window)
        )
        print_log(
            f'approximate: model.test_cfg.memory_budget is too little for '
            f'scale {scale:g} of images of {call.size[0]} x {call.size[1]} '
            f'in one piece; it is computed in {count} windows of {window[0]} '
            f'x {window[1]}, which overlap by a third or more',
            logger='current',
            level=logging.WARNING,
        )
