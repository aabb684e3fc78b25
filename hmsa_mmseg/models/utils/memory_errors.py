"""What to do when memory runs out, said where it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
