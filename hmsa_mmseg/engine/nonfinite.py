"""Finding NaN and infinity, and agreeing on them between processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from mmengine.dist import all_reduce


def nonfinite_names(
    tensors: Mapping[str, torch.Tensor], but: Collection[str] = ()
) -> list[str]:
    """List the tensors that hold NaN or infinity.

    Args:
        tensors (Mapping[str, Tensor]): Of any type and shape.
        but (Collection[str]): Names not to look at.

    Returns:
        list[str]: Their names.
    """
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


def any_process(flag: bool | torch.Tensor) -> bool:
    """Tell every process whether one of them raises its flag.

    All processes must call it at the same place.

    Args:
        flag (bool | Tensor): That of this process; a tensor has one element.

    Returns:
        bool: Whether any is true.
    """
    flag = torch.as_tensor(flag).detach().reshape(1).to(torch.int32)
    all_reduce(flag, op='max')
    return bool(flag)
