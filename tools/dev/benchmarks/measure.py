"""How the benchmarks count and time: one way for all of them.

Two programs are compared in one process and in turns, so that a busy machine
slows down both, and by the ratio within each round.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from oracles.live_bytes import peak_live_bytes

from hmsa_mmseg.analysis.complexity import count_flops

__all__ = [
    'Ratio',
    'Timing',
    'count_flops',
    'interleaved',
    'live_gb',
    'machine',
    'median_ms',
    'pair_ratios',
    'peak_live_bytes',
]


class Timing(NamedTuple):
    """Seconds of one call: by the clock, and of processor time."""

    wall: float
    cpu: float


class Ratio(NamedTuple):
    """Median of the ratios of all rounds, the lowest and the highest."""

    median: float
    low: float
    high: float


def live_gb(function: Callable[[], Any]) -> float:
    """Count what tensors hold at once in a call on ``meta``.

    Args:
        function (Callable): What to run.

    Returns:
        float: The most, in GB (1e9 bytes), with tiles of the size that they
        have on a GPU.
    """
    return peak_live_bytes(function) / 1e9


def _now() -> Timing:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timing(time.perf_counter(), time.process_time())


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 7,
    warmup: int = 1,
) -> dict[str, list[Timing]]:
    """Time functions in turns.

    Args:
        functions (Mapping[str, Callable]): What to time, by name. Results
            are dropped within the time measured.
        rounds (int): Rounds that count; in every second one the order is
            reversed. Defaults to 7.
        warmup (int): Rounds before them. Defaults to 1.

    Returns:
        dict[str, list[Timing]]: One timing per round.

    Raises:
        ValueError: If there is no round or no function.
    """
    if rounds < 1 or not functions:
        raise ValueError(
            f'expected one round and one function at least, got {rounds} '
            f'rounds of {list(functions)}'
        )
    times: dict[str, list[Timing]] = {name: [] for name in functions}
    for i in range(-warmup, rounds):
        names = list(functions)
        for name in names[::-1] if i % 2 else names:
            gc.collect()
            start = _now()
            functions[name]()
            end = _now()
            if i >= 0:
                times[name].append(
                    Timing(end.wall - start.wall, end.cpu - start.cpu)
                )
    return times


def pair_ratios(
    times: Mapping[str, Sequence[Timing]],
    name: str,
    against: str,
    clock: str = 'wall',
) -> Ratio:
    """Compare two functions round by round.

    Args:
        times (Mapping[str, Sequence[Timing]]): From :func:`interleaved`.
        name (str): The numerator.
        against (str): The denominator.
        clock (str): ``wall`` or ``cpu``. Defaults to ``wall``.

    Returns:
        Ratio: Time of ``name`` over time of ``against``.
    """
    ratios = [
        getattr(one, clock) / getattr(other, clock)
        for one, other in zip(times[name], times[against])
    ]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def median_ms(times: Sequence[Timing], clock: str = 'wall') -> float:
    """Median time of one function in milliseconds."""
    return 1e3 * statistics.median(getattr(t, clock) for t in times)


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Describe the machine a figure was measured on.

    Returns:
        dict: ``cpu``, ``cores`` this process may use, ``threads`` of torch,
        ``torch``, ``gpu`` (None without one), ``load``, the load average of
        the last minute (None where the system keeps none), and ``date``.
    """
    can_ask = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if can_ask else os.cpu_count()
    has_gpu = torch.cuda.is_available()
    return dict(
        cpu=_cpu_name(),
        cores=cores,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        load=os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
        date=time.strftime('%Y-%m-%d'),
    )
