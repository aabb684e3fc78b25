from .checkpointing import (
    CAN_CHECKPOINT,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)

__all__ = [
    'CAN_CHECKPOINT',
    'checkpoint_modules',
    'checkpointable_blocks',
    'recompute',
]
