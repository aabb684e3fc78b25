"""Whether operations are being recorded, at sizes that may change."""

from __future__ import annotations

import torch


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` or ``torch.compile`` is recording.

    What is done in tiles would be a long graph, of one size.
    """
    compiler = getattr(torch, 'compiler', None)
    is_compiling = getattr(compiler, 'is_compiling', lambda: False)
    return torch.jit.is_tracing() or is_compiling()
