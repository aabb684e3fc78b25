"""How the benchmarks count and time: one way for all of them.

Two programs are compared in one process and in turns, so that a busy machine
slows down both, and by the ratio within each round.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from oracles.live_bytes import peak_live_bytes as peak_live_bytes
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import timer

from hmsa_mmseg.analysis.complexity import count_flops as count_flops


class Timing(NamedTuple):
    """Seconds of one call: by the clock, of processor time, to its return.

    On a GPU a call returns when all that it does has been started.
    """

    wall: float
    cpu: float
    issue: float = 0.0


def live_gb(function: Callable[[], Any]) -> float:
    """Count what tensors hold at once in a call, in GB (1e9 bytes).

    On ``meta`` tiles have the size that they have on a GPU.
    """
    return peak_live_bytes(function) / 1e9


def count(function: Callable[[], Any]) -> dict[str, float]:
    """Count the operations and the memory of a call on ``meta``."""
    # Not both at once: what counts operations keeps tensors, of which
    # checkpointed layers make more.
    return dict(gflop=count_flops(function) / 1e9, live_gb=live_gb(function))


class _Operations(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # The CPU's batch normalisation asks for an empty tensor each time.
        is_empty = func.overloadpacket is torch.ops.aten.empty
        self.number += not (func.is_view or is_empty)
        return func(*args, **(kwargs or {}))


def count_operations(function: Callable[[], Any]) -> int:
    """Count the operators that a call dispatches and that do something.

    Views do not, nor do empty tensors.
    """
    with _Operations() as operations:
        function()
    return operations.number


def _now() -> Timing:
    # torch's timer waits for the GPU.
    return Timing(timer(), time.process_time())


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 7,
    warmup: int = 1,
    seconds: float = float('inf'),
) -> dict[str, list[Timing]]:
    """Time functions in turns."""
    times: dict[str, list[Timing]] = {name: [] for name in functions}
    names = list(functions)
    end_of_all = time.monotonic() + seconds
    for i in range(-warmup, rounds):
        if i > 0 and time.monotonic() > end_of_all:
            break
        for name in names[::-1] if i % 2 else names:
            gc.collect()
            start = _now()
            functions[name]()
            issued = time.perf_counter()
            end = _now()
            if i >= 0:
                times[name].append(
                    Timing(
                        end.wall - start.wall,
                        end.cpu - start.cpu,
                        issued - start.wall,
                    )
                )
    return times


def pair_ratios(
    times: Mapping[str, Sequence[Timing]],
    name: str,
    against: str,
    clock: str = 'wall',
) -> tuple[float, float, float]:
    """Time of one function over that of another, round by round.

    Median of the ratios of all rounds, the lowest and the highest.
    """
    ratios = [
        getattr(one, clock) / getattr(other, clock)
        for one, other in zip(times[name], times[against])
    ]
    return statistics.median(ratios), min(ratios), max(ratios)


def median_ms(times: Sequence[Timing], clock: str = 'wall') -> float:
    """Median time of one function in milliseconds."""
    return 1e3 * statistics.median(getattr(t, clock) for t in times)


def peak_cuda_bytes(function: Callable[[], Any]) -> int:
    """Most bytes that CUDA's allocator handed out during a call."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cuda_graph_bytes() -> int:
    """What CUDA's allocator keeps for graphs, between their replays too."""
    return sum(
        segment['total_size']
        for segment in torch.cuda.memory_snapshot()
        if tuple(segment['segment_pool_id']) != (0, 0)
    )


def kernels(function: Callable[[], Any]) -> dict[str, float]:
    """Number and time of all that the GPU runs in a call."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    found = [
        event.time_range.elapsed_us()
        for event in profiler.events()
        # Annotations last as long as all kernels within them.
        if event.device_type == DeviceType.CUDA
        and not getattr(event, 'is_user_annotation', False)
    ]
    return dict(device_ms=sum(found) / 1e3, kernels=len(found))


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    text = info.read_text() if info.is_file() else ''
    found = re.search(r'^model name\s*: (.*)', text, re.M)
    return found[1] if found else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Describe the machine a figure was measured on, the load included."""
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
