"""Maps that are made a second time rather than kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def made_again(
    x: Tensor, make: Callable[[], Tensor], reads: Sequence[Tensor]
) -> saved_tensors_hooks:
    """Within it, operations that read ``x`` do not keep it for their gradient.

    They take what ``make`` gives then, of ``reads``, which is the same; what
    that holds is kept. Of other tensors nothing changes.
    """

    def key(x: Tensor) -> tuple:
        # As it is now: a layer may write its result in its place.
        version = 0 if x.is_inference() else x._version
        return x.data_ptr(), x.shape, x.dtype, version

    kept, before = key(x), [key(one) for one in reads]

    def pack(saved: Tensor) -> Tensor | None:
        # With its graph it would hold a result of the node that keeps it.
        return None if key(saved) == kept else saved.detach()

    def unpack(packed: Tensor | None) -> Tensor:
        if packed is not None:
            return packed
        if [key(one) for one in reads] != before:
            raise RuntimeError(
                'features were changed in place since the decode head read '
                'them, and its gradient reads them again; expected other '
                'heads and layers to leave them, as with inplace=False'
            )
        with torch.no_grad():
            return make()

    return saved_tensors_hooks(pack, unpack)
