"""Autocast of a GPU, on ``meta``, whose tensors have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hmsa_mmseg.compat import autocast_state

#: Of https://docs.pytorch.org/docs/stable/amp.html, those that the compared
#: networks and losses call.
IN_HALF = {'conv2d', 'linear', 'matmul', '__matmul__', 'bmm'}
IN_FLOAT32 = {
    *('softmax', 'log_softmax', 'sum', 'exp', 'log', 'pow', '__pow__'),
    *('cross_entropy', 'nll_loss', 'binary_cross_entropy_with_logits'),
}


class _Casts(TorchFunctionMode):
    """Casts what functions take, where autocast is on for the CPU."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weights: dict[Tensor, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable,
        types: Any,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        name = getattr(func, '__name__', '')
        cast = None
        if autocast_state('cpu'):
            if name in IN_HALF:
                cast = self._to_half
            elif name in IN_FLOAT32:
                cast = self._to_float32
        if cast is not None:
            args = tuple(map(cast, args))
            kwargs = {key: cast(x) for key, x in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))

    def _to_half(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(self.dtype)
        if x not in self.weights:
            self.weights[x] = x.to(self.dtype)
        return self.weights[x]

    def _to_float32(self, x: Any) -> Any:
        is_half = isinstance(x, Tensor) and x.dtype == self.dtype
        return x.float() if is_half else x


@contextmanager
def meta_autocast(
    dtype: torch.dtype,
) -> Iterator[Callable[[Tensor], None]]:
    """Within it, ``torch.autocast('cpu', dtype)`` casts tensors on ``meta``.

    As that of a GPU does, weights once until it is left. It is entered around
    a whole step, in whose backward pass checkpointed layers run again, and
    gives what takes the place of ``Tensor.backward``: in that, as in any
    function of torch, the mode would be off.
    """
    casts = _Casts(dtype)
    # What autocast calls when it is left.
    with (
        casts,
        patch.object(torch, 'clear_autocast_cache', casts.weights.clear),
    ):
        yield _backward


def _backward(loss: Tensor) -> None:
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,),
        (torch.ones_like(loss),),
        *(False, False, ()),  # keep_graph, create_graph, inputs
        allow_unreachable=True,
        accumulate_grad=True,
    )
