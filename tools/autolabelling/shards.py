"""Which share of the images a process labels."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.ranks import read_ranks

# By srun for its tasks; the first is of the step, where there are several.
_SLURM_COUNTS = ('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS')


class Shard(NamedTuple):
    """One of several shares, every ``count``-th image from ``index`` on.

    Attributes:
        index (int): Counted from 0.
        count (int): How many shares there are.
        joins (bool): Whether the processes wait for each other in the end,
            as those of torchrun.
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
        InferError: If it makes no sense.
    """
    if text is not None:
        match = re.fullmatch(r'(\d+)/(\d+)', text)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not index < count:
            raise InferError(
                f'--shard {text}: expected I/N with I from 0 to N - 1, such '
                'as 0/3, 1/3 and 2/3 for three processes'
            )
        return Shard(index, count)
    if 'RANK' in environ or 'WORLD_SIZE' in environ:
        index, count = read_ranks()
        return Shard(index, count, count > 1 and 'MASTER_ADDR' in environ)
    tasks = next((environ[k] for k in _SLURM_COUNTS if k in environ), None)
    if 'SLURM_PROCID' in environ and tasks is not None:
        number = environ['SLURM_PROCID']
        if number.isdigit() and tasks.isdigit() and int(number) < int(tasks):
            return Shard(int(number), int(tasks))
        raise InferError(
            f'SLURM_PROCID={number!r} and {tasks!r} tasks in the environment; '
            'expected integers, the former from 0 on; --shard 0/1 labels all '
            'images in this process'
        )
    return Shard(0, 1)
