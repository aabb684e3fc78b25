"""What a model computes, captured as CUDA graphs and replayed.

On a GPU the thousands of operations of a step take longer to start than to
run. A graph starts them all at once, with the tensors of its capture: inputs
are copied in, results are copied out.

What is captured is a function of tensors, its result any tree of tensors.
With gradients it becomes one autograd node: a graph of the forward pass, a
graph of the backward pass from the gradients of the results to those of the
parameters, which share their memory. Optimizer, loss scaling, clipping and
the hooks of DDP stay outside.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, distributed, nn

from hmsa_mmseg.compat import autocast_state

from .captured_graph import CapturedGraph
from .execution import is_untouched
from .graph_recorder import CudaRecorder

#: Graphs that are kept at once, each with the memory of its results.
MAX_GRAPHS = 4
# There can be one capture in a process.
_CAPTURE = Lock()


class GraphCache:
    """Graphs of a function of one model, one for each kind of input.

    A kind is captured when it comes for the second time: where each image has
    another size, nothing is. Copies of a model begin with none. Threads wait
    for each other.

    Args:
        key (str): Config key that asks for graphs, for the log.
        keep_latest (bool): Whether, when there are :data:`MAX_GRAPHS`, the
            one that was not used for longest is dropped; otherwise further
            kinds are not captured. Defaults to False.
    """

    recorder_type = CudaRecorder

    def __init__(self, key: str, keep_latest: bool = False) -> None:
        self.key, self.keep_latest = key, keep_latest
        self.lock = Lock()
        self.clear()

    def __reduce__(self) -> tuple:
        """Copies and pickled models have no graphs."""
        return type(self), (self.key, self.keep_latest)

    def clear(self) -> None:
        """Drop all graphs, as when weights are no longer where they were."""
        self.graphs: OrderedDict[Hashable, CapturedGraph] = OrderedDict()
        self.seen: OrderedDict[Hashable, None] = OrderedDict()
        self.failed: set[Hashable] = set()
        self.recaptures = 0

    def __call__(
        self,
        model: nn.Module,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        settings: Hashable = None,
    ) -> Any:
        """Compute ``function(*inputs)`` by a graph, if there can be one.

        Args:
            model (nn.Module): Whose parameters and buffers it reads.
            function (Callable): Of tensors, with a tree of tensors as its
                result. It reads nothing else that changes.
            inputs (Sequence[Tensor]): What it reads; they need no gradient.
            settings (Hashable): What else makes a kind of input.

        Returns:
            Any: The result; None if the function is to be called instead,
            for a reason that the log says once.
        """
        kind_of_device = inputs[0].device.type
        if kind_of_device != self.recorder_type.device_type:
            self._log(f'not on a device of type {kind_of_device}')
            return None
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            self._log('inputs are to have a gradient')
            return None
        kind = (
            settings,
            torch.is_grad_enabled(),
            autocast_state(kind_of_device),
            *((x.shape, x.dtype, x.device) for x in inputs),
        )
        with self.lock:
            graph = self._graph(kind, model, function, inputs)
            return None if graph is None else graph(inputs)

    def _graph(
        self,
        kind: Hashable,
        model: nn.Module,
        function: Callable,
        inputs: Sequence[Tensor],
    ) -> CapturedGraph | None:
        graph = self.graphs.get(kind)
        if graph is not None:
            if graph.holds():
                self.graphs.move_to_end(kind)
                return graph
            del self.graphs[kind]
            self.recaptures += 1
            self.seen.pop(kind, None)
            if self.recaptures > MAX_GRAPHS:
                self.failed.add(kind)
                self._log('the model changes again and again')
        if kind in self.failed or not self._is_known(kind):
            return None
        if len(self.graphs) == MAX_GRAPHS:
            if not self.keep_latest:
                self._log(f'more than {MAX_GRAPHS} kinds of batches')
                return None
            self.graphs.popitem(last=False)
        try:
            hooked = [
                name
                for name, module in model.named_modules()
                # The model and what prepares the batch are called as before.
                if name not in ('', 'data_preprocessor')
                and not is_untouched(module)
            ]
            if hooked:
                raise RuntimeError(f'hooks of {hooked[0]} would not be called')
            if _is_synchronised(model):
                raise RuntimeError('SyncBatchNorm waits for the device')
            with _CAPTURE:
                recorder = self._recorder(inputs[0].device)
                graph = CapturedGraph(recorder, model, function, inputs)
        except Exception as error:
            # Whatever it is: without a graph it works, or says what is wrong.
            self.failed.add(kind)
            self._log(f'{type(error).__name__}: {error}')
            return None
        _log_once(
            f'{self.key}=True: captured. This has been tested with a stand-in '
            'on CPUs, never on a GPU: compare some results with those of '
            f'{self.key}=False'
        )
        self.graphs[kind] = graph
        return graph

    def _recorder(self, device: torch.device) -> CudaRecorder:
        """That of the graphs there are: torch takes no memory of none."""
        for recorder in (graph.recorder for graph in self.graphs.values()):
            if recorder.device == device and recorder.is_sound:
                return recorder
        return self.recorder_type(device)

    def _is_known(self, kind: Hashable) -> bool:
        """Whether a kind has come before; remembers the latest."""
        is_known = kind in self.seen
        self.seen[kind] = None
        if len(self.seen) > 4 * MAX_GRAPHS:
            self.seen.popitem(last=False)
        return is_known

    def _log(self, why: str) -> None:
        _log_once(f'{self.key}=True: runs without a graph: {why}')


@lru_cache
def _log_once(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _is_synchronised(model: nn.Module) -> bool:
    """Whether a run waits for other processes, which may not capture now."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and any(
            isinstance(module, nn.SyncBatchNorm) and module.training
            for module in model.modules()
        )
    )
