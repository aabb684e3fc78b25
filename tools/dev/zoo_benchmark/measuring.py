"""What is measured of a model, one part at a time.

Shape shorthand in this module:
    H, W: image size.
"""

from __future__ import annotations

import functools
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import (
    Timing,
    count_flops,
    interleaved,
    live_gb,
    peak_live_bytes,
)
from mmengine.config import Config
from mmseg.utils import register_all_modules

from .accuracy import evaluate
from .models import crop_and_batch
from .workloads import (
    FLIPS,
    RATIOS,
    build,
    counting,
    inference,
    last_view_alone,
    training,
    training_on_meta,
)

# Rounds before those that count, on a GPU: cuDNN chooses its kernels anew for
# each shape, and the allocator fills.
_CUDA_WARMUP = 3


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one part of a model.

    Args:
        job (Mapping): ``config`` (path), ``part`` (key of :data:`PARTS`) and
            what that part takes.

    Returns:
        dict: What was found, for JSON.
    """
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(job['config'])
    return PARTS[job['part']](cfg, job)


def count_inference(cfg: Config, job: Mapping[str, Any]) -> dict[str, Any]:
    """Count parameters, and FLOPs and memory of a test, by size and mode.

    Args:
        cfg (mmengine.Config): Of the model.
        job (Mapping): With ``sizes`` and ``modes``.

    Returns:
        dict: ``parameters``; ``modes``, by size (``HxW``) and mode
        ``gflops`` (1e9 operations, two for each multiplication with its
        addition) and ``live_gb`` (1e9 bytes, weights apart).
    """
    model = build(cfg, 'meta')

    @functools.cache
    def flops(mode: str, height: int, width: int) -> int:
        size = (height, width)
        if mode == 'hierarchical_flip':
            return 2 * flops('hierarchical', *size)
        if mode == 'ms_flip':
            # A flip changes no operation, and sizes share some views.
            return len(FLIPS) * sum(
                flops('single', int(height * ratio), int(width * ratio))
                for ratio in RATIOS
            )
        return count_flops(inference(model, mode, size, 'meta'))

    def memory(mode: str, size: tuple[int, int]) -> float:
        test = inference(model, mode, size, 'meta')
        if mode != 'ms_flip':
            return live_gb(test)
        with last_view_alone(model, len(RATIOS) * len(FLIPS)):
            return live_gb(test)

    found: dict[str, dict] = {}
    with counting(cfg):
        for size in map(tuple, job['sizes']):
            found['x'.join(map(str, size))] = {
                mode: dict(
                    gflops=flops(mode, *size) / 1e9,
                    live_gb=memory(mode, size),
                )
                for mode in job['modes']
            }
    parameters = sum(p.numel() for p in model.parameters())
    return dict(parameters=parameters, modes=found)


def count_training(cfg: Config, job: Mapping[str, Any]) -> dict[str, Any]:
    """Count FLOPs and memory of a training step at a config's own crop.

    Returns:
        dict: ``crop``, ``batch``; ``gflops`` of forward and backward of the
        whole batch; ``live_gb``, gradients included, weights and state of
        the optimizer apart.
    """
    crop, batch = crop_and_batch(cfg)
    step = training_on_meta(cfg)
    peaks = []
    # Both at once: a pass without values takes half a minute.
    flops = count_flops(lambda: peaks.append(peak_live_bytes(step)))
    return dict(
        crop=list(crop),
        batch=batch,
        gflops=flops / 1e9,
        live_gb=peaks[0] / 1e9,
    )


def time_training(cfg: Config, job: Mapping[str, Any]) -> dict[str, Any]:
    """Time a training step, and on a GPU measure its memory.

    Args:
        cfg (mmengine.Config): Of the model.
        job (Mapping): With ``size`` (None for the config's crop),
            ``device``, ``dtype``, ``seconds`` and ``rounds``.

    Returns:
        dict: ``size``, ``batch``, and as :func:`_timed` for one function.
    """
    crop, batch = crop_and_batch(cfg)
    size = tuple(job['size'] or crop)
    step = training(cfg, size, batch, job['device'], job['dtype'])
    found, failed = _timed({'': step}, job)
    if failed:
        raise RuntimeError(failed[''])
    return dict(size=list(size), batch=batch, **found[''])


def time_inference(cfg: Config, job: Mapping[str, Any]) -> dict[str, Any]:
    """Time the test of one image, and on a GPU measure its memory.

    Args:
        cfg (mmengine.Config): Of the model.
        job (Mapping): With ``size``, ``modes``, ``device``, ``dtype``,
            ``seconds``, ``rounds``, ``max_tflop`` (None for no limit) and
            ``counts``, what :func:`count_inference` has found, or None.

    Returns:
        dict: ``modes``, by mode as :func:`_timed`; ``left_out``, by mode the
        TFLOP that were too many; ``failed``, by mode the error.
    """
    size, device = tuple(job['size']), job['device']
    modes = job['modes']
    left_out = {
        mode: tflop
        for mode in modes
        if job['max_tflop'] is not None
        and (tflop := _expected_tflop(job['counts'], mode, size))
        > job['max_tflop']
    }
    model = build(cfg, device)
    functions = {
        mode: inference(model, mode, size, device)
        for mode in modes
        if mode not in left_out
    }
    autocast = torch.autocast(
        device, dtype=torch.float16, enabled=job['dtype'] == 'amp'
    )
    with torch.no_grad(), autocast:
        found, failed = _timed(functions, job)
    return dict(modes=found, left_out=left_out, failed=failed)


def _expected_tflop(
    counts: Mapping | None, mode: str, size: Sequence[int]
) -> float:
    """TFLOP of a mode, scaled by pixels from the largest size counted."""
    if not counts:
        return 0.0
    text, modes = list(counts['modes'].items())[-1]
    height, width = map(int, text.split('x'))
    share = size[0] * size[1] / (height * width)
    return modes[mode]['gflops'] / 1e3 * share if mode in modes else 0.0


def _timed(
    functions: Mapping[str, Callable[[], Any]], job: Mapping[str, Any]
) -> tuple[dict[str, dict], dict[str, str]]:
    """Time functions in turns: as often as ``seconds`` allow, once at least.

    Returns:
        tuple: By name ``wall_ms`` and ``cpu_ms`` (means), ``low`` and
        ``high`` of the wall clock, ``rounds``, and ``cuda_gb``, the most that
        CUDA's allocator had handed out, weights included (None on the CPU);
        and by name the errors of those that failed.
    """
    on_gpu = job['device'] == 'cuda'
    if on_gpu:
        torch.backends.cudnn.benchmark = False
    times: dict[str, list[Timing]] = {}
    failed: dict[str, str] = {}
    for name, function in functions.items():
        try:
            times.update(
                interleaved({name: function}, 1, _CUDA_WARMUP * on_gpu)
            )
        except RuntimeError as error:  # mostly: no memory is left
            failed[name] = error_text(error)
    left = {name: functions[name] for name in times}
    once = sum(timing.wall for (timing,) in times.values())
    budget = job['seconds'] * len(left)
    rounds = min(int(budget / max(once, 1e-6)), job['rounds'])
    if left and rounds >= 1:
        # The first round has only warmed up.
        times = interleaved(left, rounds=rounds, warmup=0)
    found = {
        name: dict(
            _mean(times[name]),
            cuda_gb=_cuda_gb(function) if on_gpu else None,
        )
        for name, function in left.items()
    }
    return found, failed


def error_text(error: BaseException) -> str:
    """Type and first line of an error, for a row of a table."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'[:300]


def _mean(times: Sequence[Timing]) -> dict[str, Any]:
    wall = [1e3 * timing.wall for timing in times]
    cpu = [1e3 * timing.cpu for timing in times]
    return dict(
        wall_ms=statistics.fmean(wall),
        cpu_ms=statistics.fmean(cpu),
        low=min(wall),
        high=max(wall),
        rounds=len(times),
    )


def _cuda_gb(function: Callable[[], Any]) -> float:
    """The zoo's memory: ``max_memory_allocated`` of a call, in 1e9 bytes."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9


def evaluate_model(cfg: Config, job: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate weights on disk; see :func:`accuracy.evaluate`."""
    return dict(
        weights=Path(job['weights']).name,
        miou=evaluate(
            cfg,
            Path(job['weights']),
            Path(job['data_root']),
            job['modes'],
            Path(job['work_dir']),
        ),
    )


#: What can be measured of a model.
PARTS: dict[str, Callable[[Config, Mapping[str, Any]], dict]] = {
    'inference counts': count_inference,
    'training counts': count_training,
    'training': time_training,
    'inference': time_inference,
    'mIoU': evaluate_model,
}
