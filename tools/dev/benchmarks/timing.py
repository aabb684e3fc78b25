"""One way to write down how fast variants are, for all suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .measure import Timing, interleaved, median_ms, pair_ratios


def time_variants(
    functions: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, dict]:
    """Time variants in turns, against the first of them.

    Args:
        functions (Mapping[str, Callable]): By name.
        rounds (int): Rounds that count.
        warmup (int): Rounds before them. Defaults to 1.

    Returns:
        dict[str, dict]: For each variant and both clocks, wall and cpu,
        ``<clock>_ms`` (median) and ``<clock>_ratio`` (``median``, ``low``,
        ``high``): its time over that of the first.
    """
    times = interleaved(functions, rounds, warmup)
    first = next(iter(functions))
    found: dict[str, dict] = {}
    for name in functions:
        found[name] = {}
        for clock in Timing._fields:
            ratio = pair_ratios(times, name, first, clock)
            found[name][f'{clock}_ms'] = median_ms(times[name], clock)
            found[name][f'{clock}_ratio'] = ratio._asdict()
    return found


def ratio_between(
    times: Mapping[str, Mapping], name: str, against: str
) -> float:
    """Ratio of two medians, neither of them the first variant's."""
    return times[name]['wall_ms'] / times[against]['wall_ms']


def peak_cuda_bytes(function: Callable[[], Any]) -> int:
    """Most bytes that CUDA's allocator handed out during a call.

    Args:
        function (Callable): What to run.

    Returns:
        int: Bytes above what was allocated when the call began.
    """
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
