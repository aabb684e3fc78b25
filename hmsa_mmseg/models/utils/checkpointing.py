"""Gradient checkpointing that leaves no trace in the result.

What is checkpointed runs a second time in the backward pass. PyTorch takes
care of random numbers and autocast then, but batch normalisation would count
the batch twice (https://github.com/pytorch/pytorch/issues/96136): here its
running statistics stand still during the second run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from .norm_layers import BatchCount


class FrozenStatistics(AbstractContextManager):
    """Within it, normalisation layers do not update running statistics.

    They still normalise with the statistics of the batch. A class and not a
    generator, because a backward pass with ``retain_graph`` enters it again.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.saved: list[tuple[_NormBase, float | None, Any]] = []

    def __enter__(self) -> None:
        """Let running statistics stand still."""
        scratch = None
        for layer in self.module.modules():
            if isinstance(layer, _NormBase) and layer.training:
                counter = layer.num_batches_tracked
                self.saved.append((layer, layer.momentum, counter))
                # 1 - 0 times the old value is the old value, to the last bit.
                layer.momentum = 0.0
                # Whatever is counted here is not read.
                if isinstance(counter, BatchCount):
                    layer._buffers['num_batches_tracked'] = BatchCount()
                elif counter is not None:
                    if scratch is None:
                        scratch = torch.zeros_like(counter)
                    layer.num_batches_tracked = scratch

    def __exit__(self, *exc_info) -> None:
        """Let them follow again."""
        while self.saved:
            layer, layer.momentum, counter = self.saved.pop()
            layer._buffers['num_batches_tracked'] = counter


def recompute(module: nn.Module, function: Callable, *args, **kwargs) -> Any:
    """Call a function, and once more in the backward pass.

    Only its arguments and results are kept in between; lists are copied, so
    that the function may change them, as HRNet's modules do. Results,
    gradients, running statistics and the state of the random number generators
    are bit-equal to those of a plain call. Synchronised batch normalisation
    communicates a second time. ``module`` holds all layers that it runs.
    """

    def run(*args, **kwargs) -> Any:
        copies = (list(x) if isinstance(x, list) else x for x in args)
        return function(*copies, **kwargs)

    return checkpoint(
        run,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), FrozenStatistics(module)),
        **kwargs,
    )


def checkpointable_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Find the blocks of a backbone of mmseg between which memory is kept.

    These are the outermost modules that mmseg itself could checkpoint, which
    it marks by an attribute ``with_cp``: modules of HRNet, blocks of ResNet,
    layers of transformers. There may be none.
    """
    found = []
    for child in backbone.children():
        is_block = hasattr(child, 'with_cp')
        found += [child] if is_block else checkpointable_blocks(child)
    return found


@contextmanager
def checkpoint_modules(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let calls of these modules be recomputed in the backward pass.

    None is within another. They are as before when the context ends; the
    backward pass may come later.
    """
    own = [vars(module).get('forward') for module in modules]
    for module in modules:
        # Hooks run around it, once, as without checkpointing.
        plain = module.forward
        vars(module)['forward'] = partial(recompute, module, plain)
    try:
        yield
    finally:
        for module, forward in zip(modules, own):
            if forward is None:
                del vars(module)['forward']
            else:
                vars(module)['forward'] = forward
