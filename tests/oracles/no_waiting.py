"""Refuse what makes a program wait for a GPU, or copy to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hmsa_mmseg.models.utils.graph_recorder import waits


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an AssertionError where the host waits or hands data over.

    For tensors on any device, ``meta`` included; backward passes, too.
    """
    with _NoNewData(), _NoWaiting():
        yield


class _NoNewData(TorchFunctionMode):
    """Sees what `meta` does not show to :class:`_NoWaiting`."""

    def __torch_function__(
        self,
        func: Callable,
        types: Iterable[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        """Run a function, if it makes no tensor of values on a device."""
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            assert result.device.type == 'cpu', 'values go to the device'
        return result


class _NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Callable,
        types: Iterable[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        """Run an operator, if it is harmless."""
        name = func.overloadpacket.__name__
        kwargs = kwargs or {}
        assert not waits(func, args, kwargs), f'{name} waits for the device'
        return func(*args, **kwargs)
