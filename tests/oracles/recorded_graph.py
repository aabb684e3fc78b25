"""A stand-in for CUDA graphs on a CPU.

What is recorded are the operators that reach PyTorch's kernels, with the very
tensors they read and write; a replay calls them again and writes to the same
tensors. As with a CUDA graph no line of Python runs again, and recording
changes nothing that was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hmsa_mmseg.models.utils.graph_recorder import (
    CudaRecorder,
    RefusingWaits,
    tensors_of,
)


class RecordedGraph(TorchDispatchMode):
    """Records operators while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict, list[Tensor]]] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and keep it."""
        kwargs = kwargs or {}
        for i, arg in enumerate(func._schema.arguments):
            is_written = arg.alias_info is not None and arg.alias_info.is_write
            is_statistic = arg.name in ('running_mean', 'running_var')
            if is_written or is_statistic:
                given = args[i : i + 1] or kwargs.get(arg.name)
                for x in tensors_of(given):
                    key = x.untyped_storage().data_ptr()
                    if key not in self.made and key not in self.before:
                        self.before[key] = x, x.clone()
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, tensors_of(result)))
        known = {
            x.untyped_storage().data_ptr() for x in tensors_of((args, kwargs))
        }
        for x in self.calls[-1][3]:
            key = x.untyped_storage().data_ptr()
            if key not in known:
                self.made.add(key)
        return result

    def restore(self) -> None:
        """Undo what recording wrote: what it made has no values yet."""
        for x, old in self.before.values():
            x.data.copy_(old)  # autograd does not see it
        for *_, results in self.calls:
            for x in results:
                is_made = x.untyped_storage().data_ptr() in self.made
                if is_made and x.is_floating_point():
                    x.data.fill_(float('nan'))

    def replay(self) -> None:
        """Call all operators again, which autocast has prepared before."""
        with torch.no_grad(), torch.autocast('cpu', enabled=False):
            for func, args, kwargs, results in self.calls:
                found = func(*args, **kwargs)
                if func.namespace == 'c10d':
                    found[-1].wait()
                for mine, new in zip(results, tensors_of(found)):
                    if mine.data_ptr() != new.data_ptr():
                        mine.copy_(new)


class RecordingOnCPU(CudaRecorder):
    """In the place of ``CudaRecorder``, all of whose methods it has."""

    device_type = 'cpu'

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Random numbers stay."""
        with torch.random.fork_rng([]):
            yield

    def refusing_waits(self) -> TorchDispatchMode:
        """Refuse what would wait for a GPU."""
        return RefusingWaits()

    @contextmanager
    def recording(self) -> Iterator[RecordedGraph]:
        """Record what is called, without an effect."""
        # CUDA's would keep tensors of that mode, and could not write to them.
        assert not torch.is_inference_mode_enabled()
        graph = RecordedGraph()
        try:
            with torch.random.fork_rng([]), graph:
                yield graph
        finally:
            graph.restore()

    @contextmanager
    def using(self) -> Iterator[None]:
        """There is one stream only."""
        yield
