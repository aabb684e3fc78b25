from .checkpointing import (
    CAN_CHECKPOINT,
    FrozenStatistics,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)
from .precision import no_autocast
from .tiles import is_tracing, row_tiles
from .untouched import is_untouched

__all__ = [
    'CAN_CHECKPOINT',
    'FrozenStatistics',
    'checkpoint_modules',
    'checkpointable_blocks',
    'is_tracing',
    'is_untouched',
    'no_autocast',
    'recompute',
    'row_tiles',
]
