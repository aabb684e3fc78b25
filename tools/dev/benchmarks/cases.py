"""What is measured: options of a run, cases of a suite, rows of a page."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .measure import (
    count,
    cuda_graph_bytes,
    interleaved,
    kernels,
    live_gb,
    median_ms,
    pair_ratios,
    peak_cuda_bytes,
)

SMALL_SIZE = (64, 128)
DTYPES = ('float32', 'bfloat16', 'float16')
CPU_CLOCKS = dict(ms='wall', cpu_ms='cpu')
Function = Callable[[], Any]


class Options(NamedTuple):
    """Settings of a run, see ``benchmark.py --help``."""

    size: str = 'full'
    rounds: int = 7
    seconds: float = 300.0
    authors: Path | None = None
    dtypes: tuple[str, ...] = ('float32',)
    models: tuple[str, ...] = ()
    max_tflop: float = 1.0
    data_root: Path | None = None
    weights: Path | None = None

    @property
    def is_small(self) -> bool:
        """Whether this is only to see that it runs."""
        return self.size == 'small'

    @property
    def device(self) -> str:
        """``cuda`` where there is one."""
        return 'cuda' if torch.cuda.is_available() else 'cpu'

    @property
    def true_size(self) -> tuple[int, int]:
        """Of images (H, W) that are counted."""
        return SMALL_SIZE if self.is_small else (1024, 2048)

    @property
    def timed_size(self) -> tuple[int, int]:
        """Of images (H, W) that are timed; on a CPU a 16th of the pixels."""
        on_cpu = not self.is_small and self.device == 'cpu'
        return (256, 512) if on_cpu else self.true_size


class Case(NamedTuple):
    """One comparison; the first of its ways is what the others are over."""

    #: What is timed, by name. What a way needs is built when it first runs.
    ways: Mapping[str, Function] = {}
    #: What is counted on ``meta``; on a GPU only if there is nothing to time.
    counted: Mapping[str, Function] = {}
    #: Whether the memory of ``ways`` is counted as they run.
    is_held: bool = False
    #: Part of that memory that is the result.
    result_gb: float = 0.0
    #: Returns differences by way; SystemExit if what is compared differs.
    check: Callable[[], Mapping[str, float]] | None = None
    #: Further columns by way.
    facts: Mapping[str, Mapping[str, Any]] = {}
    #: The same, as functions, of ways that have been timed.
    found_later: Mapping[str, Callable[[], Mapping[str, Any]]] = {}


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def rows_of(case: Case, options: Options) -> list[dict[str, Any]]:
    """Check a case, then measure it.

    Ways from a CUDA graph come last, with the first way once more: where one
    fails, a GPU may answer nothing any more.
    """
    began = time.monotonic()
    differences = case.check() if case.check else {}
    # On a GPU no time is lost with what is the same on every machine.
    skips = bool(case.ways) and options.device == 'cuda'
    counted = {} if skips else case.counted
    ways = [*counted, *case.ways, *case.facts]
    rows: dict[str, dict[str, Any]] = {way: dict(way=way) for way in ways}
    for way, function in counted.items():
        rows[way].update(count(function))
    if case.is_held:
        for way, function in case.ways.items():
            rows[way]['live_gb'] = live_gb(function) - case.result_gb
    graphed = [way for way in case.ways if 'graph' in way]
    eager = [way for way in case.ways if way not in graphed]
    end = began + options.seconds
    if graphed:
        _time(case, eager, options, rows, (began + end) / 2)
        _time(case, [*eager[:1], *graphed], options, rows, end)
    else:
        _time(case, eager, options, rows, end)
    for way, difference in differences.items():
        rows[way]['difference'] = difference
    for way, facts in case.facts.items():
        rows[way].update(facts)
    gc.collect()
    return list(rows.values())


def _time(
    case: Case,
    ways: Sequence[str],
    options: Options,
    rows: Mapping[str, dict[str, Any]],
    end: float,
) -> None:
    """Time ways in turns; what fails is in its row.

    After half of the time to ``end`` no further way is begun, and after all
    of it nothing but the first round.
    """

    def fails(way: str, error: Exception) -> None:
        if 'ms' not in rows[way]:
            rows[way].setdefault('error', error_text(error))

    on_gpu = options.device == 'cuda'
    half = (time.monotonic() + end) / 2
    left = {}
    for way in ways:
        function = case.ways[way]
        try:
            if time.monotonic() > half:
                raise TimeoutError('no time was left')
            held = cuda_graph_bytes() if on_gpu else 0
            # cuDNN chooses its kernels anew for each shape, and graphs are
            # captured in the second run.
            for _ in range(3 if on_gpu else 1):
                function()
            if on_gpu:
                held = cuda_graph_bytes() - held
                rows[way]['cuda_gb'] = (peak_cuda_bytes(function) + held) / 1e9
            left[way] = function
        except Exception as error:  # mostly: no memory is left
            fails(way, error)
    try:
        # The allocator has lent its memory from one way to the next.
        times = interleaved(
            left, options.rounds, int(on_gpu), end - time.monotonic()
        )
    except Exception as error:
        for way in left:
            fails(way, error)
        return
    first = next(iter(case.ways), None)
    clocks = dict(ms='wall', issue_ms='issue') if on_gpu else CPU_CLOCKS
    for way in left:
        for column, clock in clocks.items():
            rows[way][column] = median_ms(times[way], clock)
            if first in left and clock != 'issue':
                rows[way][column.replace('ms', 'ratio')] = pair_ratios(
                    times, way, first, clock
                )
        rows[way]['rounds'] = len(times[way])
    later = list(case.found_later.items())
    if on_gpu:
        later += [
            (way, partial(kernels, function))
            for way, function in left.items()
            if 'kernels' not in rows[way]
        ]
    for way, function in later:
        if way in left and time.monotonic() < end:
            try:
                rows[way].update(function())
            except Exception as error:
                rows[way]['error'] = error_text(error)


def error_text(error: BaseException) -> str:
    """Type and first line of an error, for a row of a table."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'[:300]


def logits_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest magnitude."""
    difference = (found.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


def graph_difference(
    eager: Callable[[], Mapping[str, torch.Tensor]],
    graphed: Callable[[], Mapping[str, torch.Tensor]],
) -> dict[str, tuple[float, float]]:
    """How far a graph is from an eager run, and a second eager run.

    Of the tensor that is farthest, relative to its largest magnitude.
    """
    first, again, found = eager(), eager(), graphed()

    def farthest(results: Mapping[str, torch.Tensor]) -> float:
        if results.keys() != first.keys():
            return float('inf')
        # A tensor of zeros must be equal.
        return max(
            logits_difference(results[key], value)
            if value.any()
            else float(results[key].abs().max())
            for key, value in first.items()
        )

    return dict(graph_difference=(farthest(found), farthest(again)))


def wrong_classes(
    classes: torch.Tensor, expected: torch.Tensor, tolerance: float
) -> float:
    """Share of pixels whose class is not that of the logits, ties aside.

    ``classes`` are (N, H, W), ``expected`` logits (N, K, H, W). How far below
    the largest logit that of the class may be: relative to the largest of all.
    """
    expected = expected.float()
    chosen = expected.gather(1, classes.long()[:, None])[:, 0]
    lost = expected.amax(dim=1) - chosen
    # Not "greater than": NaN must count as wrong.
    right = lost <= tolerance * expected.abs().max()
    return 1 - right.float().mean().item()


def must_be_equal(
    suite: str, found: Mapping[str, float], tolerance: float
) -> None:
    """Stop if a difference is above the tolerance."""
    # Not "greater than": NaN must fail.
    wrong = {key: d for key, d in found.items() if not d <= tolerance}
    if wrong:
        raise SystemExit(
            f'{suite}: the results are not equal (relative differences '
            f'{wrong}, allowed {tolerance}); nothing was timed'
        )
