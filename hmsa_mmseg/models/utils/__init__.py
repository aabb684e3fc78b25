from .checkpointing import (
    CAN_CHECKPOINT,
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
    'CAN_CHECKPOINT',
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
