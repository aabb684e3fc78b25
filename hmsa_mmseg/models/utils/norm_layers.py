"""Norm layers of a network that runs several times in a training step.

A layer counts its batches with one operation in each pass, and autograd adds
up the gradients of each of its weights over the passes: of HRNet-W48 at two
scales that is one operation in six, on tensors of a few hundred numbers. Here
both are done for all layers at once, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import is_distributed
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _NormBase

from .execution import is_tracing

_COUNTER = 'num_batches_tracked'


class BatchCount:
    """Counts batches in the place of a layer's ``num_batches_tracked``."""

    def __init__(self) -> None:
        self.count = 0

    def add_(self, count: int) -> None:
        """Count on, as the tensor would."""
        self.count += count


def plain_norm_layers(module: nn.Module) -> list[_NormBase]:
    """Find the norm layers that Python runs, not what compiled it."""
    found, left = {}, [module]  # a layer may have two names
    while left:
        module = left.pop()
        if isinstance(module, _NormBase):
            found[module] = None
            continue
        is_compiled = vars(module).get('_compiled_call_impl') is not None
        if not is_compiled and '_orig_mod' not in module._modules:
            children = module._modules.values()
            left += [child for child in children if child is not None]
    return [*found]


@contextmanager
def counting_at_once(layers: Sequence[_NormBase]) -> Iterator[None]:
    """Within it layers count their batches; at its end counters are raised."""
    counted = []
    for layer in () if is_tracing() else layers:
        counter = layer._buffers.get(_COUNTER)
        # Without a momentum, the mean over all batches, the layer reads it.
        if counter is None or not layer.training or layer.momentum is None:
            continue
        counted.append((layer, counter, BatchCount()))
        layer._buffers[_COUNTER] = counted[-1][-1]
    try:
        yield
    finally:
        raised: dict[tuple, list[Tensor]] = {}
        for layer, counter, found in counted:
            layer._buffers[_COUNTER] = counter
            if found.count:
                key = counter.device, found.count
                raised.setdefault(key, []).append(counter)
        for (_, count), counters in raised.items():
            torch._foreach_add_(counters, count)


class PassWeights:
    """Gives each pass its own names for the weights of norm layers.

    Their gradients come back together and are added up at once. Under several
    processes the weights stay as they are: DDP sends off a gradient as soon as
    it is there, and FSDP holds weights in another form.

    Args:
        layers (Sequence[nn.Module]): Norm layers.
        num_passes (int): Passes of the network in a step.
    """

    def __init__(self, layers: Sequence[_NormBase], num_passes: int) -> None:
        self.places: list[tuple[dict[str, Tensor], str, Tensor]] = []
        self.aliases: list[tuple[Tensor, ...]] = [()] * num_passes
        if num_passes == 1 or is_tracing() or is_distributed():
            return
        self.places = [
            (layer._parameters, name, param)
            for layer in layers
            for name, param in layer._parameters.items()
            if param is not None and param.requires_grad
        ]
        if self.places and torch.is_grad_enabled():
            params = [param for *_, param in self.places]
            found = _Aliases.apply(num_passes, *params)
            step = len(params)
            starts = range(0, len(found), step)
            self.aliases = [found[i : i + step] for i in starts]

    @contextmanager
    def of_pass(self, index: int) -> Iterator[None]:
        """Let the layers use the names of a pass."""
        for (params, name, _), alias in zip(self.places, self.aliases[index]):
            params[name] = alias
        try:
            yield
        finally:
            for params, name, param in self.places:
                params[name] = param


class _Aliases(Function):
    """The same numbers, not copied, once for each pass."""

    @staticmethod
    def forward(
        ctx: Any, num_passes: int, *params: Tensor
    ) -> tuple[Tensor, ...]:
        """Return all params, and all again."""
        ctx.num_params = len(params)
        ctx.set_materialize_grads(False)
        return tuple(p.detach() for _ in range(num_passes) for p in params)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Add up the gradients of all passes."""
        step = ctx.num_params
        sums = list(grads[:step])
        for start in range(step, len(grads), step):
            both = []
            for i, grad in enumerate(grads[start : start + step]):
                if sums[i] is None:
                    sums[i] = grad
                elif grad is not None:
                    both.append((i, sums[i], grad))
            if both:
                places, before, more = zip(*both)
                for i, found in zip(places, torch._foreach_add(before, more)):
                    sums[i] = found
        return None, *sums
