"""How inference is cut so that it fits into a number of bytes.

Shape shorthand in this module:
    N: batch, K: classes, H, W: input size, h, w: size of a scale's maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hmsa_mmseg.utils.live_bytes import LiveBytes

from ..fast.decisions import Decision, class_dtype, decide
from ..fast.logit_rows import FusedLogits, LogitRows
from ..fast.restored_logits import RestoredLogits
from ..fast.row_fusion import RowFusion
from ..fast.tiles import (
    TILE_BYTES,
    kind_of,
    limit_tiles,
    rehearsal_for,
)
from ..scale_fusion import Size, resize_image, scaled_size
from .budget_call import (
    KEY,
    Call,
    Plan,
    ResultPlace,
    bytes_text,
    too_little,
)
from .rehearsal import rehearse
from .windows import GRID


class _Scale(NamedTuple):
    """What one scale takes: in passing, until autocast ends, for its maps."""

    peak: int
    casts: int
    kept: int
    map_size: Size


def make_plan(model: nn.Module, call: Call) -> Plan:
    """Cut a call as little as its budget needs.

    Args:
        model (nn.Module): A :class:`MultiScaleAttentionSegmentor`.
        call (Call): What is asked for.

    Returns:
        Plan: All images at once if they fit, one by one otherwise; scales
        in windows only as the last resort, and only if the settings allow.

    Raises:
        ValueError: If the call does not fit into the budget.
    """
    budget = call.settings.memory_budget
    for batch in dict.fromkeys((call.shape[0], 1)):
        if call.fuses_in_rows:
            plan = _plan_scales(model, call, batch)
        else:
            plan = _plan_whole(model, call, batch)
        if plan.peak <= budget:
            return plan
    ways = f'raise it to {plan.peak} or more'
    if call.places is None and call.settings.mode == 'whole':
        ways += ', or set model.test_cfg.classes_only=True'
    raise ValueError(
        f'{KEY}={budget} ({bytes_text(budget)}) is too little for '
        f'{call.text}: {bytes_text(plan.peak)} are needed to blend all scales '
        f'{call.settings.scales}; {ways}, or test at fewer scales'
    )


def _plan_whole(model: nn.Module, call: Call, batch: int) -> Plan:
    """Foretell a head that combines the scales in its own way."""
    scales = call.settings.scales[::-1]

    def run(image: Tensor) -> Any:
        head = model.decode_head
        inputs = model._extract_scales(image, scales)
        if call.places is None:
            return head.predict(inputs, call.size)
        seg_logits = head.predict_rows(inputs, call.size)
        return _decided(model, call, seg_logits)

    found = rehearse(
        model, run, (batch, *call.shape[1:]), call.dtype, call.half
    )
    peak = call.reserved + _results(model, call, batch) + found.peak
    return Plan(batch, (None,) * len(scales), (), None, peak)


def _plan_scales(model: nn.Module, call: Call, batch: int) -> Plan:
    """Foretell a head that blends the maps of the scales in row tiles."""
    budget = call.settings.memory_budget
    held = call.reserved + _results(model, call, batch)
    peak, windows, map_sizes = 0, [], []
    for scale in call.settings.scales[::-1]:
        with_attn = bool(windows)
        need = _whole_scale(model, call, batch, scale, with_attn)
        window, takes = None, held + need.peak
        if takes > budget and batch == 1:
            if call.settings.over_budget != 'slide':
                raise ValueError(too_little(call, scale, takes))
            window, takes = _fit_window(
                model, call, scale, with_attn, need, held + need.kept
            )
        peak = max(peak, takes)
        held += need.kept
        windows.append(window)
        map_sizes.append(need.map_size)
    held += need.casts
    tile, tile_bytes = _fit_tile(model, call, batch, map_sizes, budget - held)
    return Plan(
        batch,
        tuple(windows),
        tuple(map_sizes),
        tile_bytes,
        max(peak, held + tile),
    )


def _whole_scale(
    model: nn.Module, call: Call, batch: int, scale: float, with_attn: bool
) -> _Scale:
    """Foretell the pass over one scale."""

    def run(image: Tensor) -> Any:
        feats = model.extract_feat(
            resize_image(image, scale, model.align_corners)
        )
        return model.decode_head.decode_scale(feats, with_attn)

    shape = (batch, *call.shape[1:])
    peak, casts, maps = rehearse(model, run, shape, call.dtype, call.half)
    positions = sum(one.numel() for one in maps if one is not None)
    map_size = tuple(maps.seg_logits.shape[2:])
    return _Scale(peak, casts, positions * call.wide_bytes, map_size)


def _fit_window(
    model: nn.Module,
    call: Call,
    scale: float,
    with_attn: bool,
    whole: _Scale,
    held: int,
) -> tuple[Size, int]:
    """Find the largest windows of a scale that fit, shaped as the image.

    Args:
        model (nn.Module): The segmentor.
        call (Call): What is asked for.
        scale (float): The scale.
        with_attn (bool): Whether it needs attention.
        whole (_Scale): What it takes without windows.
        held (int): Bytes held meanwhile, the sums of its maps included.

    Returns:
        tuple: Size of the windows, and bytes taken in all.

    Raises:
        ValueError: If not even the smallest fit.
    """
    size = scaled_size(call.size, scale)
    if size != call.size:
        held += (
            call.shape[1] * math.prod(size) * torch.finfo(call.dtype).bits // 8
        )
    available = call.settings.memory_budget - held

    def run(image: Tensor) -> Any:
        return model.decode_head.decode_scale(
            model.extract_feat(image), with_attn
        )

    window, need = size, whole.peak
    while need > available:
        # What a pass takes grows with the area.
        share = 0.97 * math.sqrt(max(available, 0) / need)
        smaller = tuple(
            max(int(side * share) // GRID, 2) * GRID for side in window
        )
        if smaller == window:
            raise ValueError(too_little(call, scale, held + need, window))
        window = smaller
        cut = tuple(min(sides) for sides in zip(window, size))
        need = rehearse(
            model, run, (1, call.shape[1], *cut), call.dtype, call.half
        ).peak
    return window, held + need


def _fit_tile(
    model: nn.Module,
    call: Call,
    batch: int,
    map_sizes: Sequence[Size],
    available: int,
) -> tuple[int, int | None]:
    """Find tiles of the blend that fit, one row at least.

    Returns:
        tuple: Bytes that the blend and its result take, and bytes of a
        tile's logits, None for the usual tiles.
    """
    scales = call.settings.scales[::-1]
    fusion = RowFusion(scales, map_sizes, call.size, model.align_corners)
    logits, attns = (
        [
            torch.empty(
                (batch, channels, *size), dtype=call.wide, device='meta'
            )
            for size in map_sizes
        ]
        for channels in (model.out_channels, 1)
    )
    seg_logits = FusedLogits(logits, attns, fusion)
    make = _decided if call.places is not None else _fused

    def taken(tile_bytes: int) -> int:
        as_there = rehearsal_for(call.device.type)
        small = limit_tiles(tile_bytes)
        with as_there, small, torch.no_grad(), LiveBytes() as live:
            make(model, call, seg_logits)
        return live.peak

    usual = limit = TILE_BYTES[kind_of(call.device)]
    one_row = _row_bytes(model, call, batch)
    need = taken(usual)
    while need > available and limit > one_row:
        # The result is part of the need, and stays.
        share = min(max(available, 0) / need, 0.5)
        limit = max(int(limit * share), one_row)
        need = taken(limit)
    return need, None if limit == usual else limit


def _row_bytes(model: nn.Module, call: Call, batch: int) -> int:
    """Bytes of a row of the widest logits of which tiles are made."""
    width = call.size[1]
    if call.places is not None:
        # Each image has tiles of its own.
        batch = 1
        width = max(width, *(place.ori_shape[1] for place in call.places))
    return batch * model.out_channels * width * call.wide_bytes


def _fused(model: nn.Module, call: Call, seg_logits: LogitRows) -> Tensor:
    """Blend all scales on ``meta``."""
    fused = torch.empty(
        seg_logits.shape, dtype=seg_logits.dtype, device='meta'
    )
    for rows in seg_logits.passed_tiles():
        fused[:, :, rows] = seg_logits.rows(rows)
    return fused


def _decided(
    model: nn.Module, call: Call, seg_logits: LogitRows
) -> list[Decision]:
    """Make the results of a batch, of a single image the largest."""
    places = call.places
    if seg_logits.shape[0] < len(places):
        places = [_largest(places)]
    return [
        decide(
            RestoredLogits(
                seg_logits.image(i), place._asdict(), model.align_corners
            ),
            class_dtype(model.out_channels),
            model.decode_head.threshold,
            call.settings.confidence,
        )
        for i, place in enumerate(places)
    ]


def _largest(places: Sequence[ResultPlace]) -> ResultPlace:
    return max(places, key=lambda place: place.pixels)


def _results(model: nn.Module, call: Call, batch: int) -> int:
    """Bytes of the results of all images, where they are made one by one."""
    if batch == call.shape[0]:
        return 0
    if call.places is None:
        channels = model.out_channels
        return math.prod(call.shape) // 3 * channels * call.wide_bytes
    per_pixel = torch.iinfo(class_dtype(model.out_channels)).bits // 8
    per_pixel += 4 * call.settings.confidence
    others = sum(place.pixels for place in call.places)
    # That one is counted where it is made.
    return per_pixel * (others - _largest(call.places).pixels)
