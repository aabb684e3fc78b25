from .checkpointing import (
    FrozenStatistics,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)
from .execution import (
    is_fixed_batch_norm,
    is_tracing,
    is_untouched,
    no_autocast,
    row_tiles,
)

__all__ = [
    'FrozenStatistics',
    'checkpoint_modules',
    'checkpointable_blocks',
    'is_fixed_batch_norm',
    'is_tracing',
    'is_untouched',
    'no_autocast',
    'recompute',
    'row_tiles',
]
