"""What to do about errors of torch, said where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb

from torch import nn

_TRAINING = (
    "model.train_cfg.checkpoint=('scales', 'backbone'), train.py --amp, and "
    'smaller crops or batches'
)
_TEST = (
    "model.test_cfg.classes_only=True, model.test_cfg.dtype='bfloat16', and "
    "windows: model.test_cfg.mode='slide' with crop_size and stride"
)
# Of CUDA, and of the allocator of a CPU.
_SIGNS = ('out of memory', 'not enough memory', "can't allocate memory")
# How errors of batch normalisation begin.
_NORMS = {
    'Expected more than 1 value per channel': 'a larger batch or crop, SyncBN '
    "on several GPUs, or norm_cfg=dict(type='GN', num_groups=...)",
    'SyncBatchNorm expected input tensor': "norm_cfg=dict(type='BN') or "
    "dict(type='GN', num_groups=...) without a GPU",
}


@contextmanager
def memory_advice(
    shape: Sequence[int], scales: Sequence[float], training: bool
) -> Iterator[None]:
    """Tell what took the memory, and which settings take less.

    Args:
        shape (Sequence[int]): Of the images, (N, 3, H, W).
        scales (Sequence[float]): At which they are seen.
        training (bool): Whether settings of training help, or of a test.

    Raises:
        RuntimeError: In the place of one that says that memory ran out, of
            the same type.
    """
    try:
        yield
    except RuntimeError as error:
        text, less = str(error), _TRAINING if training else _TEST
        if less in text or not any(sign in text.lower() for sign in _SIGNS):
            raise
        number, _, height, width = shape
        raise type(error)(
            f'{text}\nThe batch has {number} images of {height}x{width} '
            f'(height x width), seen at the scales {tuple(scales)}. Less '
            f'memory take: {less}.'
        ) from error


@contextmanager
def norm_advice(model: nn.Module) -> Iterator[None]:
    """Tell which layer of a model cannot normalise, and what can.

    Raises:
        ValueError: In the place of torch's, which names no layer.
    """
    try:
        yield
    except ValueError as error:
        found = [
            advice
            for start, advice in _NORMS.items()
            if str(error).startswith(start)
        ]
        if not found:
            raise
        *_, layer = (
            frame.f_locals['self']
            for frame, _ in walk_tb(error.__traceback__)
            if 'self' in frame.f_locals
        )
        names = [name for name, one in model.named_modules() if one is layer]
        raise ValueError(
            f'{"".join(names)}, {type(layer).__name__}: {error}; expected '
            f'{found[0]}'
        ) from error
