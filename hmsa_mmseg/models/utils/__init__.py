from .checkpointing import (
    FrozenStatistics,
    checkpoint_modules,
    checkpointable_blocks,
    recompute,
)
from .execution import (
    class_dtype,
    has_float64,
    is_fixed_batch_norm,
    is_tracing,
    is_untouched,
    no_autocast,
    refuse_create_graph,
    row_tiles,
    scaled_or_nan,
)

__all__ = [
    'FrozenStatistics',
    'checkpoint_modules',
    'checkpointable_blocks',
    'class_dtype',
    'has_float64',
    'is_fixed_batch_norm',
    'is_tracing',
    'is_untouched',
    'no_autocast',
    'recompute',
    'refuse_create_graph',
    'row_tiles',
    'scaled_or_nan',
]
