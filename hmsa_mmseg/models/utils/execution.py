"""Autocast, sizes of tiles, tracing, and what modules do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.compat import torch_has


class Costs(NamedTuple):
    """What is cheap on a kind of device.

    Attributes:
        tile_bytes (int): Of the float32 logits of a tile.
        ocr_rows (int): Rows of OCRNet's features that are computed at once at
            test time. Neighbouring tiles compute some products twice.
        region_bytes (int): Of the regions of RMI that are made at once, at
            least those of one image and class.
        coarse (int): A level is convolved before it is enlarged if it is to
            be enlarged by this or more in each direction.
        widens (bool): Whether, in training, the columns of coarse levels are
            enlarged before the convolution, and only rows after it: 0.4 of
            its operations to launch, for 5 % more FLOPs of a step.
    """

    tile_bytes: int
    ocr_rows: int
    region_bytes: int
    coarse: int
    widens: bool


#: Of each kind of device; all but ``cpu`` count as ``cuda``.
COSTS = {
    'cpu': Costs(
        tile_bytes=2 << 20,  # assumed: a tile stays in the cache
        ocr_rows=80,  # as below
        region_bytes=1,  # assumed: one pair's at once is best
        # Reckoned: enlarged twice, the products, which have more channels
        # than most levels, cost about what is saved.
        coarse=3,
        widens=False,  # measured: 10 to 36 % more time of the convolution
    ),
    # Counted on `meta`, the times assumed and not measured on a GPU.
    'cuda': Costs(
        # A tile costs about a hundred launches; this is a whole batch of
        # 2 x 512 x 1024 with 19 classes.
        tile_bytes=80 << 20,
        ocr_rows=80,  # at scale 2 of 1024 x 2048, 168 MB of 512 channels
        region_bytes=256 << 20,  # all pairs of 1024 x 2048 in two steps
        coarse=3,  # concatenation alone: 1.27 times mmseg's FLOPs of a step
        widens=True,
    ),
}
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
#: Where a module keeps its hooks.
HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)


def costs_of(device: torch.device) -> Costs:
    """The costs of a device's kind."""
    return COSTS['cpu' if device.type == 'cpu' else 'cuda']


def may_wait(device: torch.device) -> bool:
    """Whether values may be read in a step: a GPU would be waited for."""
    return device.type not in ('cuda', 'meta')


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
    """Split the rows of a map into tiles.

    Tiles end at multiples of ``pool``, shifted up by ``offset``: with 4 and 2,
    they begin at rows 0, 4k + 2, ...
    """
    step = (
        max(costs_of(device).tile_bytes // row_bytes, MIN_ROWS) // pool * pool
    )
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


def hooks_of(module: nn.Module) -> list[Callable]:
    """All that has been registered to be called with a module."""
    found = (getattr(module, name, None) or {} for name in HOOKS)
    return [hook for hooks in found for hook in hooks.values()]


def is_untouched(module: nn.Module) -> bool:
    """Whether no hook and no other ``forward`` has been put on a module.

    Whoever does a module's work without calling it would leave them out. Those
    within it are not looked at.
    """
    return 'forward' not in vars(module) and not hooks_of(module)


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
