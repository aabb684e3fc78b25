"""Between the processes of a run: what they agree on, and gloo's end."""

from __future__ import annotations

import atexit
import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import torch
import torch.distributed as dist
from mmengine.dist import (
    all_reduce,
    broadcast_object_list,
    get_backend,
    is_main_process,
)
from mmengine.runner import Runner

from hmsa_mmseg.compat import torch_has


def close_gloo_at_exit(runner: Runner) -> None:
    """Have the process group of a run destroyed when the program ends.

    mmseg's tools leave it to the interpreter. A thread of gloo that drops
    its last tensor while the interpreter shuts down aborts the process
    ("terminate called without an active exception", pytorch/pytorch#190489),
    and the launcher calls a training that has done all of its work failed.

    NCCL is left alone, as is any group in a program without a run of several
    processes.
    """
    if runner.distributed and get_backend() == 'gloo':
        atexit.register(close_gloo)


def close_gloo() -> None:
    """Destroy the process group if it is gloo's and nothing has failed.

    After an exception a collective may wait for processes that will never
    come.
    """
    failed = hasattr(sys, 'last_type')
    if get_backend() == 'gloo' and not failed:
        # A wrapped model holds the group, in cycles of references.
        gc.collect()
        if not torch_has('shutdown_of_gloo'):
            # Python is locked while the group is destroyed, and would wait
            # for threads that need it to drop their tensors. Let them end.
            with suppress(RuntimeError):
                dist.barrier()
            time.sleep(0.1)
        dist.destroy_process_group()


def any_process(flag: bool | torch.Tensor) -> bool:
    """Tell every process whether one of them raises its flag.

    All must call it at the same place. A tensor has one element.
    """
    flag = torch.as_tensor(flag).detach().reshape(1).to(torch.int32)
    all_reduce(flag, op='max')
    return bool(flag)


def from_main_process(function: Callable[[], object]) -> object:
    """Call a function on rank 0 alone; all get its result, or its error.

    All processes must call it at the same place.

    Args:
        function (Callable): What it returns can be pickled.

    Returns:
        object: What it returns on rank 0.
    """
    outcome = [None, None]
    if is_main_process():
        try:
            outcome[0] = function()
        # Whatever it is: the other processes wait.
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
