from .checkpointing import (
    CAN_CHECKPOINT,
    FrozenStatistics,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)
from .precision import no_autocast

__all__ = [
    'CAN_CHECKPOINT',
    'FrozenStatistics',
    'checkpoint_modules',
    'checkpointable_blocks',
    'no_autocast',
    'recompute',
]
