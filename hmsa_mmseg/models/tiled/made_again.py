"""Maps that are made a second time rather than kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def made_again(x: Tensor, make: Callable[[], Tensor]) -> saved_tensors_hooks:
    """Within it, operations that read ``x`` do not keep it for their gradient.

    They take what ``make`` gives then, which is the same; what that holds is
    kept. Of other tensors nothing changes.
    """
    kept = x.data_ptr(), x.shape, x.dtype

    def pack(saved: Tensor) -> Tensor | None:
        is_x = (saved.data_ptr(), saved.shape, saved.dtype) == kept
        return None if is_x else saved

    def unpack(packed: Tensor | None) -> Tensor:
        if packed is not None:
            return packed
        with torch.no_grad():
            return make()

    return saved_tensors_hooks(pack, unpack)
