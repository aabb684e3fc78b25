"""Several processes that share the files of one run."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device

from .errors import InferError

# One may have days of work more than another: of videos, or going on.
_PATIENCE = datetime.timedelta(days=30)


def read_ranks() -> tuple[int, int]:
    """Read this process's number and that of all, as torchrun gives them.

    Returns:
        tuple[int, int]: ``RANK`` and ``WORLD_SIZE``; 0 and 1 without.

    Raises:
        InferError: If they make no sense.
    """
    texts = os.environ.get('RANK', '0'), os.environ.get('WORLD_SIZE', '1')
    try:
        rank, world_size = map(int, texts)
    except ValueError:
        rank, world_size = -1, 0
    if not 0 <= rank < world_size:
        raise InferError(
            f'RANK={texts[0]!r} and WORLD_SIZE={texts[1]!r} in the '
            'environment; expected integers, RANK from 0 to WORLD_SIZE - 1'
        )
    return rank, world_size


def find_device(device: str | None) -> str:
    """The device of this process: each of several has its own GPU.

    Args:
        device (str, optional): As asked for. Defaults to None: a GPU if there
            is one.

    Returns:
        str: With the number of torchrun's process on this machine, or of
        slurm's, where a task may also see nothing but its own GPU.
    """
    device = device or get_device()
    local_rank = os.environ.get('LOCAL_RANK', '')
    if device != 'cuda':
        return device
    if local_rank.isdigit():
        return f'cuda:{local_rank}'
    local_id = os.environ.get('SLURM_LOCALID', '')
    if local_id.isdigit():
        return f'cuda:{int(local_id) % max(1, torch.cuda.device_count())}'
    return device


def join_group(world_size: int) -> Any:
    """Join the processes of torchrun, if there are several.

    They work alone, and wait for each other only in the end: torchrun ends
    all as soon as one has failed. Without ``MASTER_ADDR`` there is nobody to
    wait for.

    Args:
        world_size (int): How many there are.

    Returns:
        ProcessGroup | None: None for a process alone.
    """
    if world_size == 1 or 'MASTER_ADDR' not in os.environ:
        return None
    # The first to come waits here already, by default for half an hour.
    dist.init_process_group('gloo', timeout=_PATIENCE)
    return dist.group.WORLD


def gather(values: Sequence[Any], group: Any) -> list[Any]:
    """Collect values of all processes, on each of them.

    Args:
        values (Sequence): Of this process.
        group (ProcessGroup | None): From :func:`join_group`.

    Returns:
        list: In the order of the processes.
    """
    if group is None:
        return list(values)
    collected: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(collected, list(values), group)
    return [value for part in collected for value in part]
