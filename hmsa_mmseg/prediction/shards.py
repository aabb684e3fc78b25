"""Several processes that share the images of one run."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from mmengine.device import get_device

from hmsa_mmseg.utils.locks import lock_file, unlock_file

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

    @contextmanager
    def alone_in(self, folder: str | os.PathLike) -> Iterator[None]:
        """Keep other processes with this share out of a folder."""
        path = Path(folder, f'.{self.index}.lock')
        try:
            lock_file(path, 'prediction of a share')
        except RuntimeError as error:
            raise PredictionError(str(error)) from error
        try:
            yield
        finally:
            unlock_file(path)

    def gather(self, value: Any) -> list[Any]:
        """Collect a value of each process that joins, on each of them."""
        if not self.joins:
            return [value]
        if not dist.is_initialized():
            # The first to come waits here, by default for half an hour.
            dist.init_process_group('gloo', timeout=_PATIENCE)
        collected: list[Any] = [None] * self.count
        dist.all_gather_object(collected, value)
        return collected


def read_shard(
    text: str | None, environ: Mapping[str, str] = os.environ
) -> Shard:
    """Find out which share this process has.

    Without ``i/n`` of the command line torchrun's ``RANK`` and ``WORLD_SIZE``
    count, then slurm's ``SLURM_PROCID`` and number of tasks, then there is
    one share.
    """
    joins = False
    tasks = next((environ[k] for k in _SLURM_COUNTS if k in environ), None)
    if text is not None:
        index, _, count = text.partition('/')
        problem = (
            f'--shard {text}: expected I/N with I from 0 to N - 1, such as '
            '0/3, 1/3 and 2/3 for three processes'
        )
    elif 'RANK' in environ or 'WORLD_SIZE' in environ:
        index = environ.get('RANK', '0')
        count = environ.get('WORLD_SIZE', '1')
        joins = 'MASTER_ADDR' in environ
        problem = (
            f'RANK={index!r} and WORLD_SIZE={count!r} in the environment; '
            'expected integers, RANK from 0 to WORLD_SIZE - 1'
        )
    elif 'SLURM_PROCID' in environ and tasks is not None:
        index, count = environ['SLURM_PROCID'], tasks
        problem = (
            f'SLURM_PROCID={index!r} and {tasks!r} tasks in the environment; '
            'expected integers, the former from 0 on; --shard 0/1 does all '
            'images in this process'
        )
    else:
        return Shard(0, 1)
    numbers = re.fullmatch(r'\d+ \d+', f'{index} {count}', re.ASCII)
    if numbers is None or int(index) >= int(count):
        raise PredictionError(problem)
    return Shard(int(index), int(count), joins and int(count) > 1)


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
