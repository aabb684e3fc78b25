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
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from torch import Tensor, distributed, nn

from hmsa_mmseg.compat import autocast_state, torch_has, torch_needed

from .captured_graph import CapturedGraph
from .execution import hooks_of
from .graph_recorder import CudaRecorder
from .model_state import CALLED

#: Graphs that are kept at once, each with the memory of its results.
MAX_GRAPHS = 4
#: Replays after which a capture has not been for nothing.
WORTH_IT = 100
# There can be one capture in a process.
_CAPTURE = Lock()


class Plan(IntEnum):
    """What to do with an input: of several processes all do the least."""

    RUN, CAPTURE, REPLAY = range(3)


class GraphCache:
    """Graphs of a function of one model, one for each kind of input.

    A kind is captured when it comes for the second time: where each image has
    another size, nothing is. Copies of a model begin with none. Threads wait
    for each other. Processes that SyncBN joins replay all at once or not at
    all, and each calls this in each of its steps.

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
        self.said: set[str] = set()
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
            self._log(
                f'runs without a graph on a device of type {kind_of_device}'
            )
            return None
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            self._log('runs without a graph: inputs are to have a gradient')
            return None
        what = (
            settings,
            torch.is_grad_enabled(),
            autocast_state(kind_of_device),
            *((x.shape, x.dtype) for x in inputs),
        )
        kind = what, tuple(x.device for x in inputs)
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
        is_joint = _is_synchronised(model)
        plan = self._plan(kind, model)
        if is_joint:
            # Where one replays and another does not, collectives of SyncBN
            # and DDP come in another order, and both wait for ever.
            wanted, plan = plan, Plan(least(plan, str(kind[0])))
            if plan < wanted:
                self._log(
                    'runs without a graph where other processes have another '
                    'batch, or none'
                )
        if plan == Plan.RUN:
            return None
        if plan == Plan.CAPTURE:
            error = self._capture(kind, model, function, inputs)
            if is_joint and not least(error is None):
                self.graphs.pop(kind, None)
                error = error or 'another process has failed'
            if error is None:
                self._log(
                    'captured. This has been tested with a stand-in on CPUs, '
                    'never on a GPU: compare some results with those of '
                    f'{self.key}=False'
                )
            else:
                self._give_up(kind, error)
        return self.graphs.get(kind)

    def _plan(self, kind: Hashable, model: nn.Module) -> Plan:
        """What this process would do."""
        graph = self.graphs.get(kind)
        if graph is not None:
            if graph.state.holds():
                self.graphs.move_to_end(kind)
                return Plan.REPLAY
            del self.graphs[kind]
            self.recaptures += graph.replays < WORTH_IT
            self.seen.pop(kind, None)
            if self.recaptures > MAX_GRAPHS:
                self._give_up(kind, 'the model changes again and again')
        if kind in self.failed or not self._is_known(kind):
            return Plan.RUN
        why = _why_not(model)
        if why is not None:
            self._give_up(kind, why)
            return Plan.RUN
        if len(self.graphs) == MAX_GRAPHS and not self.keep_latest:
            self._log(f'only {MAX_GRAPHS} kinds of batches have a graph')
            return Plan.RUN
        return Plan.CAPTURE

    def _capture(
        self,
        kind: Hashable,
        model: nn.Module,
        function: Callable,
        inputs: Sequence[Tensor],
    ) -> str | None:
        """Capture a kind of input; why there is no graph of it."""
        self.graphs.pop(kind, None)
        if len(self.graphs) == MAX_GRAPHS:
            self.graphs.popitem(last=False)
        # What torch keeps of a capture would be of inference mode, too.
        normal, has_grad = torch.inference_mode(False), torch.is_grad_enabled()
        try:
            with _CAPTURE, normal, torch.set_grad_enabled(has_grad):
                recorder = self._recorder(inputs[0].device)
                self.graphs[kind] = CapturedGraph(
                    recorder, model, function, inputs
                )
        except Exception as error:
            # Whatever it is: without a graph it works, or says what is wrong.
            return _cause(error)
        return None

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

    def _give_up(self, kind: Hashable, why: str) -> None:
        """Capture a kind no more."""
        self.failed.add(kind)
        self._log(f'runs without a graph: {why}')

    def _log(self, what: str) -> None:
        """Say each thing once."""
        if what not in self.said:
            self.said.add(what)
            _warn(f'{self.key}=True: {what}')


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _why_not(model: nn.Module) -> str | None:
    """Why no function of a model can be captured, if none can."""
    for name, module in model.named_modules():
        hooks = hooks_of(module)
        if name not in CALLED and (
            'forward' in vars(module)
            or not all(getattr(x, 'is_captured', False) for x in hooks)
        ):
            return f'hooks of {name} would not be called'
    if is_distributed() and not torch_has('capture_mode'):
        return f'a capture among processes {torch_needed("capture_mode")}'
    return None


def _cause(error: BaseException) -> str:
    """What was first: the end of a capture that has failed fails, too."""
    while error.__context__ is not None:
        error = error.__context__
    frames = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    # Whose fault it is, not who noticed.
    own = [
        (path, line)
        for path, line in frames
        if path.parent != Path(__file__).parent
        and 'torch' not in path.parts
        and path.name != 'contextlib.py'
    ]
    path, line = (own or frames)[-1]
    return f'{type(error).__name__}: {error} ({path.name}:{line})'


def _is_synchronised(model: nn.Module) -> bool:
    """Whether a run waits for other processes, as SyncBN does."""
    return is_distributed() and any(
        isinstance(module, nn.SyncBatchNorm)
        and module.training
        and distributed.get_world_size(module.process_group) > 1
        for module in model.modules()
    )


def least(value: int, what: str = '') -> int:
    """The least value of all processes, 0 if they do not speak of the same.

    Each of them calls this, by a group of the CPUs: none waits for a GPU.
    """
    digest = int.from_bytes(sha256(what.encode()).digest()[:7], 'big')
    found = torch.tensor([digest, -digest, -value], device='cpu')
    group = _gloo_group(distributed.group.WORLD)
    distributed.all_reduce(found, distributed.ReduceOp.MAX, group)
    high, low, value = found.tolist()
    return -value if high == -low else 0


@lru_cache(maxsize=1)
def _gloo_group(world: distributed.ProcessGroup) -> distributed.ProcessGroup:
    return distributed.new_group(backend='gloo')
