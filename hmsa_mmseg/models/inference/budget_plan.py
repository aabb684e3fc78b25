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

from ..fast.row_fusion import RowFusion
from ..fast.tiles import row_tiles
from ..scale_fusion import Size, resize_image, scaled_size
from .budget_call import KEY, Call, Plan, bytes_text, too_little
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
    if not call.classes and call.settings.mode == 'whole':
        ways += ', or set model.test_cfg.classes_only=True'
    raise ValueError(
        f'{KEY}={budget} ({bytes_text(budget)}) is too little for '
        f'{call.text}: {bytes_text(plan.peak)} are needed to blend all scales '
        f'{call.settings.scales}; {ways}, or test at fewer scales'
    )


def _plan_whole(model: nn.Module, call: Call, batch: int) -> Plan:
    """Foretell a head that combines the scales in its own way."""
    scales = call.settings.scales[::-1]

    def run(image: Tensor) -> Tensor:
        head = model.decode_head
        combine = head.predict_classes if call.classes else head.predict
        return combine(model._extract_scales(image, scales), call.size)

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
    held += need.casts + _map_bytes(model, call, batch)
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
        tuple: Bytes that making a tile takes, and bytes of a tile's logits,
        None for the usual tiles.
    """
    height, width = call.size
    fusion = RowFusion(
        call.settings.scales[::-1], map_sizes, call.size, model.align_corners
    )

    def taken(num_rows: int) -> int:
        start = (height - num_rows) // 2
        rows = slice(start, start + num_rows)
        maps = [
            [
                torch.empty(
                    (batch, channels, source.stop - source.start, map_width),
                    dtype=call.wide,
                    device='meta',
                )
                for source, (_, map_width) in zip(
                    fusion.source_rows(rows), map_sizes
                )
            ]
            for channels in (model.out_channels, 1)
        ]
        with LiveBytes() as live:
            fusion.rows(*maps, rows)
        # A tile is dropped when the next one is there.
        has_next = num_rows < height
        return live.peak + has_next * num_rows * row_bytes

    row_bytes = batch * model.out_channels * width * call.wide_bytes
    usual = row_tiles(height, row_bytes, call.device)[0].stop
    num_rows, need = usual, taken(usual)
    while need > available and num_rows > 1:
        share = max(available, 0) / need
        num_rows = max(min(int(num_rows * share), num_rows - 1), 1)
        need = taken(num_rows)
    return need, None if num_rows == usual else num_rows * row_bytes


def _map_bytes(model: nn.Module, call: Call, batch: int) -> int:
    """Bytes of the logits or classes of some images."""
    channels = model.out_channels
    per_pixel = channels * call.wide_bytes
    if call.classes:
        per_pixel = 1 if channels <= 256 else 8
    return batch * math.prod(call.size) * per_pixel


def _results(model: nn.Module, call: Call, batch: int) -> int:
    """Bytes of the results of all images, where they are made one by one."""
    is_all = batch == call.shape[0]
    return 0 if is_all else _map_bytes(model, call, call.shape[0])
