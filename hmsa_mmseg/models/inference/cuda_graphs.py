"""CUDA graphs: the kernels of a module, started with one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils._pytree import tree_map

from .rehearsal import product_dtype


class _Graph(NamedTuple):
    """A recorded pass, with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: Any


class GraphedForward:
    """A module's forward pass, recorded once for each shape of its input.

    It saves the time that starting hundreds of kernels takes, which at small
    scales is longer than they run. Each graph keeps the memory of its pass.
    Where a graph does not apply, on the CPU, with gradients, on tensors of
    other kinds or with more than ``max_graphs`` shapes, the pass runs as
    ever.

    Args:
        forward (Callable): Takes a tensor; its result is copied, so that it
            outlives the next call.
        max_graphs (int): Shapes that are recorded. Defaults to 8.
    """

    def __init__(
        self, forward: Callable[[Tensor], Any], max_graphs: int = 8
    ) -> None:
        self.forward = forward
        self.max_graphs = max_graphs
        self.graphs: dict[tuple, _Graph] = {}
        self.is_full = False

    def __call__(self, inputs: Tensor) -> Any:
        """Run the pass."""
        if (
            type(inputs) is not Tensor
            or not inputs.is_cuda
            or torch.is_grad_enabled()
        ):
            return self.forward(inputs)
        key = (
            tuple(inputs.shape),
            inputs.dtype,
            inputs.device,
            # Autocast in another type is another pass.
            product_dtype(inputs.device),
            # Outside of it, what was made within it cannot be written to.
            torch.is_inference_mode_enabled(),
        )
        with torch.cuda.device(inputs.device):
            if key not in self.graphs:
                if len(self.graphs) >= self.max_graphs:
                    self._say_that_it_is_full(key[0])
                    return self.forward(inputs)
                self.graphs[key] = self._record(inputs)
            recorded = self.graphs[key]
            recorded.inputs.copy_(inputs)
            recorded.graph.replay()
        return tree_map(
            lambda x: x.clone() if isinstance(x, Tensor) else x,
            recorded.outputs,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the graphs, which a copy's weights are not part of."""
        return {**vars(self), 'graphs': {}}

    def _say_that_it_is_full(self, shape: tuple[int, ...]) -> None:
        if not self.is_full:
            self.is_full = True
            print_log(
                f'cuda_graphs: {self.max_graphs} shapes are recorded; {shape} '
                'and all others run without a graph',
                logger='current',
            )

    def _record(self, inputs: Tensor) -> _Graph:
        """Record a pass, after a few that choose kernels and workspaces."""
        inputs = inputs.clone()
        # Casts that autocast has kept are memory that it frees when it ends.
        is_cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            current = torch.cuda.current_stream()
            side = torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.forward(inputs)
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self.forward(inputs)
        finally:
            torch.set_autocast_cache_enabled(is_cached)
        return _Graph(graph, inputs, outputs)
