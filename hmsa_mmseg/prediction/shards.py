"""Several processes that share the images of one run."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from mmengine.device import get_device

from .errors import PredictionError

# By srun for its tasks; the first is of the step, where there are several.
_SLURM_COUNTS = ('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS')
# One may have days of work more than another: of videos, or going on.
_PATIENCE = datetime.timedelta(days=30)


class Shard(NamedTuple):
    """One of several shares, every ``count``-th image from ``index`` on.

    Attributes:
        index (int): Counted from 0.
        count (int): How many shares there are.
        joins (bool): Whether the processes wait for each other in the end,
            as those of torchrun: it ends all as soon as one has failed.
    """

    index: int
    count: int
    joins: bool = False

    @property
    def shows(self) -> bool:
        """bool: Whether progress is shown: by one process of torchrun."""
        return self.index == 0 or not self.joins

    def __str__(self) -> str:
        """As ``--shard`` takes it."""
        return f'{self.index}/{self.count}'

    def share(self, items: Sequence) -> Sequence:
        """Take the items of this process."""
        return items[self.index :: self.count]

    def join(self) -> Any:
        """Join the processes of torchrun; return their group, or None."""
        if not self.joins:
            return None
        # The first to come waits here already, by default for half an hour.
        dist.init_process_group('gloo', timeout=_PATIENCE)
        return dist.group.WORLD


def read_shard(
    text: str | None, environ: Mapping[str, str] = os.environ
) -> Shard:
    """Find out which share this process has.

    Args:
        text (str, optional): Of the command line, ``i/n``. Without it
            torchrun's ``RANK`` and ``WORLD_SIZE`` count, then slurm's
            ``SLURM_PROCID`` and number of tasks, then there is one share.
        environ (Mapping): Environment variables.

    Returns:
        Shard: The share.

    Raises:
        PredictionError: If it makes no sense.
    """
    if text is not None:
        index, _, count = text.partition('/')
        return _checked(
            index,
            count,
            f'--shard {text}: expected I/N with I from 0 to N - 1, such as '
            '0/3, 1/3 and 2/3 for three processes',
        )
    if 'RANK' in environ or 'WORLD_SIZE' in environ:
        index = environ.get('RANK', '0')
        count = environ.get('WORLD_SIZE', '1')
        shard = _checked(
            index,
            count,
            f'RANK={index!r} and WORLD_SIZE={count!r} in the environment; '
            'expected integers, RANK from 0 to WORLD_SIZE - 1',
        )
        joins = shard.count > 1 and 'MASTER_ADDR' in environ
        return shard._replace(joins=joins)
    tasks = next((environ[k] for k in _SLURM_COUNTS if k in environ), None)
    if 'SLURM_PROCID' in environ and tasks is not None:
        index = environ['SLURM_PROCID']
        return _checked(
            index,
            tasks,
            f'SLURM_PROCID={index!r} and {tasks!r} tasks in the environment; '
            'expected integers, the former from 0 on; --shard 0/1 does all '
            'images in this process',
        )
    return Shard(0, 1)


def _checked(index: str, count: str, problem: str) -> Shard:
    numbers = re.fullmatch(r'\d+ \d+', f'{index} {count}', re.ASCII)
    if numbers is None or int(index) >= int(count):
        raise PredictionError(problem)
    return Shard(int(index), int(count))


def find_device(device: str | None) -> str:
    """The device of this process, by default a GPU if there is one.

    Each of several has its own: with the number of torchrun's process on this
    machine, or of slurm's, where a task may see nothing but its own GPU.
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


def gather(values: Sequence[Any], group: Any) -> list[Any]:
    """Collect values of a group of processes, in their order, on each."""
    if group is None:
        return list(values)
    collected: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(collected, list(values), group)
    return [value for part in collected for value in part]
