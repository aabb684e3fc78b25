"""A function of tensors that was captured, and its replay in autograd."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from .execution import no_autocast
from .graph_recorder import CudaRecorder, tensors_of
from .model_state import ModelState, unchanged

#: Runs before a capture, in which libraries choose their kernels
#: (`torch.cuda.make_graphed_callables` runs as many).
WARM_UPS = 3


@contextmanager
def _named_anew(
    model: nn.Module, params: Sequence[Tensor]
) -> Iterator[list[Tensor]]:
    """Give a model other names of its parameters, with the same memory.

    What is outside has no part in their gradients: neither hooks of the
    parameters, which are called after a replay, nor the streams on which
    autograd, for DDP or a loss that is still there, has met them before.
    """
    names = {p: nn.Parameter(p.detach()) for p in params}
    places = [
        (module._parameters, key, param)
        for module in model.modules()
        for key, param in module._parameters.items()
        if param in names
    ]
    for held, key, param in places:
        held[key] = names[param]
    # Casts of weights from the outside are not of the graph, and those of
    # the graph not of the outside.
    torch.clear_autocast_cache()
    try:
        yield list(names.values())
    finally:
        torch.clear_autocast_cache()
        for held, key, param in places:
            held[key] = param


@contextmanager
def _no_random_numbers_of_the_host() -> Iterator[None]:
    """Refuse what each replay would draw anew, and leave no trace of it."""

    def state() -> tuple:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (kind, tuple(keys), *rest)

    before = state()
    yield
    if state() != before:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        raise RuntimeError('Python or NumPy draws random numbers')


@contextmanager
def _not_compiled(model: nn.Module) -> Iterator[None]:
    """Call no compiled module: within a dispatch mode it would run as it is.

    And from then on for ever: https://github.com/pytorch/pytorch/issues/190286.
    """
    compiled = {
        module: vars(module)['_compiled_call_impl']
        for module in model.modules()
        if vars(module).get('_compiled_call_impl') is not None
    }
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


class _Reads(TorchDispatchMode):
    """Keeps the tensors that are read but not made while it is entered.

    A graph reads them by their address, such as what is cached for a size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: set[int] = set()
        self.found: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = _by_address((args, kwargs))
        for address in read.keys() - self.made:
            self.found[address] = read[address]
        result = func(*args, **kwargs)
        self.made.update(_by_address(result).keys() - read.keys())
        return result


def _by_address(tree: Any) -> dict[int, Tensor]:
    return {x.untyped_storage().data_ptr(): x for x in tensors_of(tree)}


class CapturedGraph:
    """A function, captured with some inputs."""

    #: Forward passes until now.
    replays = 0

    def __init__(
        self,
        recorder: CudaRecorder,
        model: nn.Module,
        function: Callable,
        inputs: Sequence[Tensor],
    ) -> None:
        self.recorder = recorder
        params: Sequence[Tensor] = ()
        if torch.is_grad_enabled():
            params = [p for p in model.parameters() if p.requires_grad]
        self.grad_results: Sequence[Tensor] = ()
        with _named_anew(model, params) as names:
            used = self._warm_up(model, function, inputs, [*names, *params])
            if any(used[len(names) :]) or (
                self.grad_results and not any(used)
            ):
                raise RuntimeError(
                    'the weights are held by a wrapper, as FSDP'
                )
            self.params = [p for p, yes in zip(params, used) if yes]
            names = [p for p, yes in zip(names, used) if yes]
            torch.clear_autocast_cache()
            with recorder.recording() as self.forward_graph:
                results = self._forward(function)
            if names:
                with recorder.recording() as self.backward_graph:
                    self.grads = self._backward(results, names)
        self.state = ModelState(model)
        self.needs_grad = [x.requires_grad for x in results]
        # What the backward pass needs is gone; its memory is the graphs'.
        self.results = [x.detach() for x in results]
        self.leaves = [
            None if isinstance(leaf, Tensor) else leaf for leaf in self.leaves
        ]

    def _warm_up(
        self,
        model: nn.Module,
        function: Callable,
        inputs: Sequence[Tensor],
        params: Sequence[Tensor],
    ) -> list[bool]:
        """Run all as it will be captured; which parameters get a gradient."""
        with self.recorder.warming_up(), unchanged(model):
            with torch.no_grad():
                self.inputs = [x.detach().clone() for x in inputs]
            with _no_random_numbers_of_the_host():
                # The first may make what is cached from then on.
                for _ in range(WARM_UPS - 1):
                    self._backward(self._forward(function), params)
            refusing = self.recorder.refusing_waits()
            with _not_compiled(model), refusing, _Reads() as self.reads:
                grads = self._backward(self._forward(function), params)
            return [grad is not None for grad in grads]

    def _forward(self, function: Callable) -> list[Tensor]:
        """Run the function; tensors of its result."""
        self.leaves, self.spec = tree_flatten(function(*self.inputs))
        is_tensor = [isinstance(leaf, Tensor) for leaf in self.leaves]
        self.places = [i for i, yes in enumerate(is_tensor) if yes]
        return [self.leaves[i] for i in self.places]

    def _backward(
        self, results: Sequence[Tensor], params: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Gradients of the parameters, from static ones of the results."""
        results = [x for x in results if x.requires_grad]
        if not self.grad_results:
            self.grad_results = [torch.ones_like(x) for x in results]
        if not results or not params:
            return ()
        # As a backward pass outside of a graph, after autocast.
        with no_autocast(self.inputs[0].device):
            grads = torch.autograd.grad(
                results, params, self.grad_results, allow_unused=True
            )
        # Each is to be a tensor of its own, which clipping may change.
        addresses: set[int] = set()
        own = []
        for grad in grads:
            found = _by_address(grad).keys()
            own.append(grad.clone() if found & addresses else grad)
            addresses |= found
        return own

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """Replay the function; its result, copied."""
        if self.params:
            found = _Replay.apply(self, inputs, *self.params)
        else:
            found = self.replay(inputs)
        leaves = list(self.leaves)
        for i, x in zip(self.places, found):
            leaves[i] = x
        return tree_unflatten(leaves, self.spec)

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replay the forward pass; tensors of its result, copied."""
        self.replays += 1
        self.recorder.uses += 1
        with self.recorder.using(), torch.no_grad():
            for mine, x in zip(self.inputs, inputs):
                mine.copy_(x, non_blocking=True)
            self.forward_graph.replay()
            return tuple(x.clone() for x in self.results)


class _Replay(Function):
    """Forward and backward pass of a graph as one node."""

    @staticmethod
    def forward(
        ctx: Any,
        graph: CapturedGraph,
        inputs: Sequence[Tensor],
        *params: Tensor,
    ) -> tuple[Tensor, ...]:
        """Replay the forward pass."""
        found = graph.replay(inputs)
        ctx.graph, ctx.use = graph, graph.recorder.uses
        constants = [x for x, yes in zip(found, graph.needs_grad) if not yes]
        ctx.mark_non_differentiable(*constants)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Replay the backward pass; gradients of the parameters."""
        graph = ctx.graph
        if ctx.use != graph.recorder.uses:
            raise RuntimeError(
                'a CUDA graph has run again since these losses, or their '
                'backward pass has run before: what it needs is gone; '
                'expected one backward pass after each forward pass; '
                'otherwise set model.train_cfg.cuda_graph=False'
            )
        graph.recorder.uses += 1
        wanted = [x for x, yes in zip(grads, graph.needs_grad) if yes]
        with graph.recorder.using(), torch.no_grad():
            for mine, grad in zip(graph.grad_results, wanted):
                mine.copy_(grad)
            graph.backward_graph.replay()
            # Copies, in a few operations: any graph may write to these.
            return None, None, *torch._foreach_mul(graph.grads, 1)
