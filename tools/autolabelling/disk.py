"""Space on the disk: foreseen, and when there is none left."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path

from .errors import SpaceError

#: Images whose mean tells how much the others will take.
SAMPLE = 20


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or a quota on it, is full."""
    number = getattr(error, 'errno', None)
    return number in (errno.ENOSPC, errno.EDQUOT)


class SpaceWatch:
    """Compares what labels will take with what is free.

    Args:
        folder (Path): Of the labels.
        images (int): That are to be labelled by this process.
        shards (int): Processes that label as many each.
        ignores (bool): Whether to look at all.
    """

    def __init__(
        self, folder: Path, images: int, shards: int, ignores: bool
    ) -> None:
        self.folder = folder
        self.images = images
        self.shards = shards
        self.ignores = ignores
        self._lock = threading.Lock()
        self._sizes: list[int] = []

    def add(self, size: int) -> None:
        """Take note of the bytes of an image's labels.

        Raises:
            SpaceError: After the first :data:`SAMPLE`, if the rest will not
                fit.
        """
        with self._lock:
            self._sizes.append(size)
            if self.ignores or len(self._sizes) != SAMPLE:
                return
        mean = sum(self._sizes) / SAMPLE
        left = (self.images - SAMPLE) * self.shards
        free = shutil.disk_usage(self.folder).free
        if mean * left > free:
            raise SpaceError(
                f'{self.folder}: the first {SAMPLE} images take '
                f'{mean / 1e6:.3f} MB each, so {left} more take '
                f'{mean * left / 1e9:.3f} GB; {free / 1e9:.3f} GB are free. '
                'Expected more space, or --ignore-space. What is done stays: '
                'the same command goes on'
            )
