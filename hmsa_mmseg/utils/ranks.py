"""What the processes of a run tell each other, and what must not differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.dist import all_gather_object, all_reduce, is_main_process


def any_process(flag: bool | torch.Tensor) -> bool:
    """Tell every process whether one of them raises its flag.

    All must call it at the same place. A tensor has one element.
    """
    flag = torch.as_tensor(flag).detach().reshape(1).to(torch.int32)
    all_reduce(flag, op='max')
    return bool(flag)


def from_all_processes(function: Callable[[], object]) -> list:
    """Call a function on all ranks; all get all results, or all an error.

    All processes must call it at the same place, and none within the
    function: one that has failed does not come there.

    Args:
        function (Callable): What it returns can be pickled.

    Returns:
        list: What it returns on each rank.

    Raises:
        RuntimeError: If it has failed on other ranks, with their errors;
            where it has failed itself, the error is its own.
    """
    result = said = own = None
    try:
        result = function()
    # Whatever it is: the other processes wait.
    except Exception as error:
        own, said = error, f'{type(error).__name__}: {error}'
    outcomes = all_gather_object((result, said))
    if own is not None:
        raise own
    failed = [
        f'rank {rank}: {said}'
        for rank, (_, said) in enumerate(outcomes)
        if said is not None
    ]
    if failed:
        raise RuntimeError('; '.join(failed))
    return [result for result, _ in outcomes]


def from_main_process(function: Callable[[], object]) -> object:
    """Call a function on rank 0 alone; see :func:`from_all_processes`."""
    return from_all_processes(
        lambda: function() if is_main_process() else None
    )[0]


def check_same(what: str, found: list, expected: str) -> None:
    """Refuse what differs between ranks; ``found`` is known to all of them.

    Raises:
        ValueError: On all ranks, with what each has.
    """
    ranks = {}
    for rank, value in enumerate(found):
        ranks.setdefault(value, []).append(str(rank))
    if len(ranks) > 1:
        each = '; '.join(
            f'rank {", ".join(numbers)}: {value}'
            for value, numbers in ranks.items()
        )
        raise ValueError(
            f'{what}: the processes differ, {each}; expected {expected}'
        )
