"""What of a model a captured graph takes for given."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .execution import HOOKS

#: Modules that a graph leaves to be called, with their hooks: the model and
#: what prepares the batch.
CALLED = ('', 'data_preprocessor')
# Attributes that are compared by value: `momentum`, `loss_weight`, `fast`.
_PLAIN = {int, float, bool, str, type(None), tuple}


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Attributes that are plain values or lists of them, as they are now."""
    found = {}
    for key, value in vars(module).items():
        if type(value) in _PLAIN:
            found[key] = value
        elif type(value) is list and all(type(x) in _PLAIN for x in value):
            found[key] = value.copy()
    return found


class ModelState:
    """Modules, weights and settings of a model, as they are now.

    Of the model itself only what it holds, not its own settings, which tell
    what it captures.

    Args:
        model (nn.Module): What is compared later.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        inner = [module for name, module in modules.items() if name]
        self.own = [vars(module) for module in inner]
        self.settings = [settings_of(module).items() for module in inner]
        self.held = [
            vars(module)[key]
            for module in modules.values()
            for key in ('_parameters', '_buffers', '_modules')
        ]
        self.hooks = [
            vars(module)[key]
            for name, module in modules.items()
            if name not in CALLED
            for key in HOOKS
        ]
        held = list(chain.from_iterable(map(dict.values, self.held)))
        self.tensors = [x for x in held if isinstance(x, Tensor)]
        self.params = [x for x in held if isinstance(x, nn.Parameter)]
        self.state = self._read()

    def _read(self) -> tuple:
        return (
            # Modules and weights may be exchanged for others,
            [*map(id, chain.from_iterable(map(dict.values, self.held)))],
            # or the memory of weights.
            [*map(Tensor.data_ptr, self.tensors)],
            [*map(Tensor.requires_grad.__get__, self.params)],
            sum(map(len, self.hooks)),
            any('forward' in own for own in self.own),
        )

    def holds(self) -> bool:
        """Whether the model is as it was; 1.3 ms for HRNet-W48."""
        # Attributes may have been added.
        return self._read() == self.state and all(
            map(operator.le, self.settings, map(dict.items, self.own))
        )


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give a model back its buffers and settings in the end.

    Raises:
        RuntimeError: If it has exchanged one for another, as a counter, or a
            buffer that is not written to but made anew: a replay would not.
    """
    before = [
        (name, module, settings_of(module), dict(module._buffers))
        for name, module in model.named_modules()
    ]
    values = [(x, x.clone()) for x in model.buffers()]
    changed = []
    try:
        yield
    finally:
        for name, module, settings, buffers in before:
            own = vars(module)
            for key, value in settings.items():
                if own.get(key) == value:
                    continue
                changed.append(f'{name}.{key}')
                if isinstance(value, list) and isinstance(own.get(key), list):
                    own[key][:] = value  # others may hold it
                else:
                    own[key] = value
            for key, value in buffers.items():
                if module._buffers.get(key) is not value:
                    changed.append(f'{name}.{key}')
                    module._buffers[key] = value
        with torch.no_grad():
            for x, old in values:
                x.copy_(old)
    if changed:
        raise RuntimeError(f'{changed[0]} is another one after each step')
