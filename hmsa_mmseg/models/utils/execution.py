"""Autocast, sizes of tiles, tracing, and what modules do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.compat import torch_has

#: Bytes of the float32 logits of a tile. On a processor a tile should stay in
#: the cache; on a GPU each tile costs the launch of about a hundred kernels,
#: and 80 MB are a whole batch of 2 x 512 x 1024 with Cityscapes's 19 classes.
TILE_BYTES = {'cpu': 2 << 20, 'cuda': 80 << 20}
#: The least rows of a tile: resizing reads up to three rows more than it
#: gives, of which neighbouring tiles compute each their own.
MIN_ROWS = 16

_BATCH_NORM_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
# Before that, torch.compile breaks its graph where tiles begin.
_is_compiling = (
    torch.compiler.is_compiling
    if torch_has('is_compiling')
    else torch.jit.is_tracing
)
_HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)


def no_autocast(device: torch.device) -> torch.autocast:
    """Switch autocast off; for ``meta``, unknown to it, that of the CPU."""
    kind = 'cpu' if device.type == 'meta' else device.type
    return torch.autocast(kind, enabled=False)


def row_tiles(
    height: int,
    row_bytes: int,
    device: torch.device,
    pool: int = 1,
    offset: int = 0,
) -> list[slice]:
    """Split the rows of a map into tiles, on ``meta`` as on a GPU.

    Tiles end at multiples of ``pool``, shifted up by ``offset``: with 4 and 2,
    they begin at rows 0, 4k + 2, ...
    """
    tile_bytes = TILE_BYTES['cpu' if device.type == 'cpu' else 'cuda']
    step = max(tile_bytes // row_bytes, MIN_ROWS) // pool * pool
    # No tile of fewer rows than are missing to a multiple.
    cuts = [0, *range(step - offset, height - offset, step), height]
    return [slice(top, end) for top, end in zip(cuts, cuts[1:])]


def is_tracing() -> bool:
    """Whether a graph is being recorded, in which loops over tiles unroll.

    ``torch.jit.trace``, by which ONNX files are made, ``torch.compile`` and
    ``torch.export`` record for sizes that may change.
    """
    return torch.jit.is_tracing() or _is_compiling()


def class_dtype(num_classes: int) -> torch.dtype:
    """The smallest type of classes that all of mmseg's tools take.

    Not uint8: ``IoUMetric`` casts labels to it, and an ``ignore_index`` of
    -1 or 1000 would become a class; ``CityscapesMetric`` writes label ids
    into it, one of which is -1.
    """
    return torch.int16 if num_classes <= 1 << 15 else torch.int32


def has_float64(device: torch.device) -> bool:
    """Whether tensors on a device can be float64; Apple's GPUs have none."""
    return device.type in ('cpu', 'cuda', 'meta')


def is_untouched(module: nn.Module) -> bool:
    """Whether no hook and no other ``forward`` has been put on a module.

    Whoever does a module's work without calling it would leave them out. Those
    within it are not looked at.
    """
    return 'forward' not in vars(module) and not any(
        getattr(module, name, None) for name in _HOOKS
    )


def is_fixed_batch_norm(
    module: nn.Module, forwards: tuple[Callable, ...] = ()
) -> bool:
    """Whether a module is batch normalisation with fixed statistics.

    And nothing else: subclasses may do more, as timm's, which go on with an
    activation; ``forwards`` are those whose surplus the caller knows.
    """
    return (
        isinstance(module, _BatchNorm)
        and type(module).forward in (*_BATCH_NORM_FORWARDS, *forwards)
        and module.running_mean is not None
        and not module.training
        and is_untouched(module)
    )
