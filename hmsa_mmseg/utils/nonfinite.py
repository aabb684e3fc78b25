"""Finding NaN and infinity."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch


def nonfinite_names(
    tensors: Mapping[str, torch.Tensor], but: Collection[str] = ()
) -> list[str]:
    """Name the tensors that hold NaN or infinity; ``but`` are left out."""
    return [
        name
        for name, tensor in tensors.items()
        if name not in but and not torch.isfinite(tensor).all()
    ]


def constant_infinities(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """List the tensors with infinity, but no NaN, in them.

    Some models keep masks with ``-inf`` among their buffers. What is such a
    mask shows before the first iteration.
    """
    return {
        name
        for name in nonfinite_names(tensors)
        if not torch.isnan(tensors[name]).any()
    }
