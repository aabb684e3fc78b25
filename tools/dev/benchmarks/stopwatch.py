"""Where the time of a call goes, part by part."""

from __future__ import annotations

import inspect
import time
from collections import defaultdict
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Name of a part, and where its function is: an attribute of an object.
Part = tuple[str, Any, str]


class Stopwatch:
    """Adds up the time spent in functions, each without those inside it.

    Attributes:
        seconds (dict[str, float]): By name of the part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        """Book the time since the last switch on the part that runs."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def _watched(self, name: str, function: Callable) -> Callable:
        def iterate(*args: Any, **kwargs: Any) -> Iterator:
            # Of a generator the time is spent between its results.
            items = function(*args, **kwargs)
            step = self._watched(name, partial(next, items, iterate))
            while (item := step()) is not iterate:
                yield item

        if inspect.isgeneratorfunction(function):
            return iterate

        def call(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._running.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return call

    @contextmanager
    def watching(self, parts: Iterable[Part]) -> Iterator[None]:
        """Replace functions by ones that are timed, for a while.

        Args:
            parts (Iterable[tuple]): ``(name, owner, attribute)``.
        """
        undo = []
        try:
            for name, owner, attribute in parts:
                own = vars(owner).get(attribute)
                undo.append((owner, attribute, own))
                function = getattr(owner, attribute)
                setattr(owner, attribute, self._watched(name, function))
            yield
        finally:
            for owner, attribute, own in reversed(undo):
                # What was found in the class or module is found again.
                if own is None:
                    delattr(owner, attribute)
                else:
                    setattr(owner, attribute, own)

    def shares(self) -> dict[str, float]:
        """Part of the whole time, by name; they add up to 1."""
        total = sum(self.seconds.values())
        return {name: spent / total for name, spent in self.seconds.items()}


def profile(
    function: Callable[[], Any], parts: Iterable[Part], calls: int = 3
) -> dict[str, float]:
    """Find the shares of a function's time, over some calls.

    Args:
        function (Callable): What to run; itself one of the parts, or else
            the time outside all of them is not seen.
        parts (Iterable[tuple]): As for :meth:`Stopwatch.watching`.
        calls (int): How often it is run, after once that does not count.

    Returns:
        dict[str, float]: Share by name, adding up to 1.
    """
    parts = list(parts)
    function()
    watch = Stopwatch()
    with watch.watching(parts):
        for _ in range(calls):
            function()
    return watch.shares()


class _OperatorClock(TorchDispatchMode):
    """Adds up the time of operators on the CPU, backward included.

    torch's profiler takes minutes to sort the events of many small tiles.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self,
        func: Callable,
        types: Iterable[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        """Run an operator and book its time."""
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix('aten::')
        self.seconds[name] += time.perf_counter() - start
        return result


def _kernel_seconds(function: Callable[[], Any]) -> dict[str, float]:
    """Time of a GPU's kernels by the operator that started them."""
    activities = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[activities.CPU, activities.CUDA]
    ) as found:
        function()
    # Kernels have rows of their own too, which would count them twice.
    return {
        event.key.removeprefix('aten::'): event.self_device_time_total
        for event in found.key_averages()
        if event.device_type == torch.autograd.DeviceType.CPU
    }


def operator_shares(
    function: Callable[[], Any], count: int = 8
) -> dict[str, float]:
    """Find the operators of torch that take most of a function's time.

    Args:
        function (Callable): What to run, once.
        count (int): How many operators to name. Defaults to 8.

    Returns:
        dict[str, float]: Share of the time of all operators, by name, the
        largest first; ``others`` is the rest. On a GPU it is the time of its
        kernels.
    """
    if torch.cuda.is_available():
        spent = _kernel_seconds(function)
    else:
        with _OperatorClock() as clock:
            function()
        spent = clock.seconds
    total = sum(spent.values())
    first = sorted(spent, key=spent.get, reverse=True)[:count]
    shares = {name: spent[name] / total for name in first}
    return dict(shares, others=1 - sum(shares.values()))
