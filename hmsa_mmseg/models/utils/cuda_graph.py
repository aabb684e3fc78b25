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
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from hmsa_mmseg.compat import autocast_state, capture_graph

from .execution import is_untouched

#: Graphs that are kept at once, each with the memory of its results.
MAX_GRAPHS = 4
#: Runs before a capture, in which libraries choose their kernels
#: (`torch.cuda.make_graphed_callables` runs as many).
WARM_UPS = 3
#: Operators whose results have a size, or a value in Python, that the device
#: has to tell.
WAITS = ('_local_scalar_dense', 'nonzero', 'masked_select', '_unique2')
# There can be one capture in a process.
_CAPTURE = Lock()


class RefusingWaits(TorchDispatchMode):
    """Within it a RuntimeError says what would wait for a device."""

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call an operator, unless it waits."""
        name = func._schema.name.split('::')[1]
        masks = args[1] if name in ('index', 'index_put_') else ()
        has_mask = any(x.dtype == torch.bool for x in _tensors(masks))
        if name in WAITS or has_mask:
            raise RuntimeError(f'{func._schema.name} waits for the device')
        return func(*args, **(kwargs or {}))


class CudaRecorder:
    """Records and replays on a GPU, by a stream of its own.

    Its graphs share memory: what one has left there, the next may overwrite.

    Args:
        device (torch.device): Where all that is recorded runs.
    """

    device_type = 'cuda'
    #: Replays until now.
    uses = 0
    #: (parameter, gradient) pairs of the latest backward pass: the gradient
    #: is in the memory of the graphs.
    lent: Sequence[tuple[Tensor, Tensor]] = ()
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
        """Within it a RuntimeError says what waits for the GPU."""
        if not torch.is_grad_enabled():
            # What follows is of all threads, and others may predict.
            with RefusingWaits():
                yield
            return
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode('error')
        try:
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
        # After an error torch leaves its stream the current one.
        with torch.cuda.stream(current), captured:
            yield graph
        self.is_sound = True

    @contextmanager
    def using(self) -> Iterator[None]:
        """Let streams use the memory of the graphs one after the other."""
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(current):
            current.wait_event(self.last_use)
            yield
            self.last_use.record(current)


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
        self.graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
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
    ) -> _Graph | None:
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
                graph = _Graph(recorder, model, function, inputs)
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


@contextmanager
def _kept(buffers: Sequence[Tensor]) -> Iterator[None]:
    """Give buffers back their values in the end, also after an error."""
    before = [x.clone() for x in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for x, old in zip(buffers, before):
                x.copy_(old)


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


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _by_address(tree: Any) -> dict[int, Tensor]:
    return {x.untyped_storage().data_ptr(): x for x in _tensors(tree)}


class _Graph:
    """A function, captured with some inputs."""

    def __init__(
        self,
        recorder: CudaRecorder,
        model: nn.Module,
        function: Callable,
        inputs: Sequence[Tensor],
    ) -> None:
        self.recorder = recorder
        modules = list(model.modules())
        self.modules = modules
        self.held = [
            held for x in modules for held in (x._parameters, x._buffers)
        ]
        self.state = self._state()
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
        with self.recorder.warming_up(), _kept(list(model.buffers())):
            with torch.inference_mode(False), torch.no_grad():
                self.inputs = [x.detach().clone() for x in inputs]
            # The first may make what is cached from then on.
            for _ in range(WARM_UPS - 1):
                self._backward(self._forward(function), params)
            with self.recorder.refusing_waits(), _Reads() as self.reads:
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

    def _state(self) -> tuple:
        """What a capture takes for given."""
        return (
            [module.training for module in self.modules],
            # Modules and weights may be exchanged for others.
            [id(x) for one in self.modules for x in one._modules.values()],
            [
                (x.data_ptr(), x.requires_grad)
                for held in self.held
                for x in held.values()
                if x is not None
            ],
        )

    def holds(self) -> bool:
        """Whether the model is as it was at the capture."""
        return self.state == self._state()

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
        self._let_go_of_grads()
        self.recorder.uses += 1
        with self.recorder.using(), torch.no_grad():
            for mine, x in zip(self.inputs, inputs):
                mine.copy_(x, non_blocking=True)
            self.forward_graph.replay()
            return tuple(x.clone() for x in self.results)

    def _let_go_of_grads(self) -> None:
        """Copy gradients that are still read: any graph may write to them.

        As when they are accumulated, or were set to zero instead of None.
        """
        for param, mine in self.recorder.lent:
            grad = param.grad
            if grad is not None and grad.data_ptr() == mine.data_ptr():
                param.grad = grad.clone()
        self.recorder.lent = ()


class _Replay(Function):
    """Forward and backward pass of a graph as one node."""

    @staticmethod
    def forward(
        ctx: Any, graph: _Graph, inputs: Sequence[Tensor], *params: Tensor
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
        graph.recorder.lent = list(zip(graph.params, graph.grads))
        wanted = [x for x, yes in zip(grads, graph.needs_grad) if yes]
        with graph.recorder.using(), torch.no_grad():
            for mine, grad in zip(graph.grad_results, wanted):
                mine.copy_(grad)
            graph.backward_graph.replay()
        return None, None, *(mine.detach() for mine in graph.grads)
