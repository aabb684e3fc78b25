"""How a GPU records and replays, behind what a test can stand in for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from hmsa_mmseg.compat import capture_graph, end_of_allocation

#: Operators whose results have a size, or a value in Python, that the device
#: has to tell.
WAITS = {
    *('_local_scalar_dense', 'equal', 'is_nonzero', 'masked_select'),
    *('nonzero', '_unique2', 'unique_dim', 'unique_consecutive'),
    *('bincount', 'repeat_interleave'),
}


def tensors_of(tree: Any) -> list[Tensor]:
    """List the tensors in a tree of lists, tuples and dicts."""
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def waits(func: Callable, args: Sequence, kwargs: Mapping) -> bool:
    """Whether an operator waits for a device, with these arguments."""
    name = func.overloadpacket.__name__
    if name in ('_to_copy', 'copy_'):
        # Between host and device.
        to = kwargs.get('device') if name == '_to_copy' else args[1].device
        return to is not None and to.type != args[0].device.type
    if name in ('index', 'index_put', 'index_put_'):
        # A mask has to be counted.
        return any(x.dtype == torch.bool for x in tensors_of(args[1]))
    return name in WAITS


class RefusingWaits(TorchDispatchMode):
    """Within it a RuntimeError says what would wait for a device."""

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call an operator, unless it waits."""
        kwargs = kwargs or {}
        if waits(func, args, kwargs):
            raise RuntimeError(f'{func._schema.name} waits for the device')
        return func(*args, **kwargs)


class CudaRecorder:
    """Records and replays on a GPU, by a stream of its own.

    Its graphs share memory: what one has left there, the next may overwrite.

    Args:
        device (torch.device): Where all that is recorded runs.
    """

    device_type = 'cuda'
    #: Replays until now.
    uses = 0
    #: Whether no capture has failed: torch may still give its memory to one.
    is_sound = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.last_use = torch.cuda.Event()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """On the stream that records; random numbers stay."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        self.stream.wait_event(self.last_use)
        kept = torch.random.fork_rng([self.device])
        # Its device is the current one within, too.
        try:
            with kept, torch.cuda.stream(self.stream):
                yield
        finally:
            # Buffers have been given back their values on it.
            current.wait_stream(self.stream)

    @contextmanager
    def refusing_waits(self) -> Iterator[None]:
        """Within it a RuntimeError says what waits for the GPU.

        But for what torch leaves out while it captures, as SyncBN's wait.
        """
        if not torch.is_grad_enabled():
            # What follows is of all threads, and others may predict.
            with RefusingWaits():
                yield
            return
        before = torch.cuda.get_sync_debug_mode()
        captures = patch.object(
            torch.cuda, 'is_current_stream_capturing', lambda: True
        )
        torch.cuda.set_sync_debug_mode('error')
        try:
            with captures:
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    @contextmanager
    def recording(self) -> Iterator[Any]:
        """Record what is called, without running it; gives the graph."""
        graph = torch.cuda.CUDAGraph()
        captured = capture_graph(graph, self.pool, self.stream)
        current = torch.cuda.current_stream(self.device)
        self.is_sound = False
        try:
            # After an error torch leaves its stream the current one.
            with torch.cuda.stream(current), captured:
                yield graph
        except BaseException:
            self._clear_failed_capture()
            raise
        self.is_sound = True

    def _clear_failed_capture(self) -> None:
        """Undo what a capture has begun that torch could not end.

        Where CUDA has made a capture invalid, ``CUDAGraph::capture_end``
        (torch's aten/src/ATen/cuda/CUDAGraph.cpp) raises before it has told
        the allocator and the generator of random numbers, and ``empty_cache``
        and dropout fail from then on.
        """
        with torch.cuda.device(self.device):
            for _ in range(2):
                # The first after the error may report it once more.
                with suppress(RuntimeError):
                    torch.zeros(1, device=self.device).add_(1)
            # Of whatever kind: it had been told, or is of another version.
            with suppress(Exception):
                end_of_allocation()(self.device.index, self.pool)
                torch._C._cuda_releasePool(self.device.index, self.pool)
            # A capture that ends well takes the generator with it.
            with capture_graph(
                torch.cuda.CUDAGraph(),
                torch.cuda.graph_pool_handle(),
                torch.cuda.Stream(),
            ):
                torch.zeros(1, device=self.device)

    @contextmanager
    def using(self) -> Iterator[None]:
        """Let streams use the memory of the graphs one after the other."""
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(current):
            current.wait_event(self.last_use)
            yield
            self.last_use.record(current)
