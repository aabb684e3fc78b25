"""What the command line asks of every suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch

DTYPES = ('float32', 'bfloat16', 'float16')


class Options(NamedTuple):
    """Settings of a run.

    Attributes:
        size (str): ``full``, or ``small`` to see that it runs.
        rounds (int): Rounds of every timing.
        authors (Path, optional): A checkout of NVIDIA/semantic-segmentation,
            whose network then takes part.
        dtypes (tuple[str, ...]): Types that inference is run in.
    """

    size: str = 'full'
    rounds: int = 7
    authors: Path | None = None
    dtypes: tuple[str, ...] = ('float32',)

    @property
    def is_small(self) -> bool:
        """Whether this is only to see that it runs."""
        return self.size == 'small'

    @property
    def device(self) -> str:
        """``cuda`` where there is one."""
        return 'cuda' if torch.cuda.is_available() else 'cpu'


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)
