"""How far a run is, and where its time goes."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hmsa_mmseg.utils import atomic_file

# Seconds between two lines in a log, and between two looks at a terminal.
_PAUSE_LOG = 30.0
_PAUSE_TERMINAL = 0.5


class Progress:
    """Lines of progress: images, rate, time left.

    Args:
        title (str): What is labelled.
        total (int): Images that are to be labelled now.
        shows (bool): Whether anything is shown.
        file (TextIO, optional): Where. On a terminal one line is written
            over. Defaults to None, the standard error.
    """

    def __init__(
        self,
        title: str,
        total: int,
        shows: bool = True,
        file: TextIO | None = None,
    ) -> None:
        self.file = sys.stderr if file is None else file
        self.title = title
        self.total = total
        self.shows = shows and total > 0
        self.done = 0
        self.failed = 0
        self._is_terminal = self.file.isatty()
        self._started = self._shown = time.monotonic()

    def update(self, failed: bool = False) -> None:
        """Count an image."""
        self.done += 1
        self.failed += failed
        pause = _PAUSE_TERMINAL if self._is_terminal else _PAUSE_LOG
        now = time.monotonic()
        if now - self._shown >= pause:
            self._shown = now
            self._show()

    def close(self) -> None:
        """Show the last line."""
        self._show()
        if self.shows and self._is_terminal:
            print(file=self.file)

    def _show(self) -> None:
        if self.shows:
            start, end = ('\r', '\033[K') if self._is_terminal else ('', '\n')
            print(f'{start}{self}', end=end, file=self.file, flush=True)

    def __str__(self) -> str:
        """One line."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = self.done / seconds
        text = f'{self.title}: {self.done}/{self.total} images'
        if self.failed:
            text += f', {self.failed} failed'
        text += f', {rate:.2f} images/s'
        if 0 < self.done < self.total:
            left = round((self.total - self.done) / rate)
            text += f', {datetime.timedelta(seconds=left)} left'
        return text


class Clock:
    """Seconds in the model and around it, of the thread that runs it."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds = dict.fromkeys(
            ('total', 'model', 'reading', 'writing'), 0.0
        )

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of a ``with`` to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @property
    def outside(self) -> float:
        """float: Share of the time in which the model did not run."""
        total = self.seconds['total']
        return 1 - self.seconds['model'] / total if total else 0.0

    def __str__(self) -> str:
        """One line."""
        total = self.seconds['total']
        return (
            f'{self.images} images in {total:.1f} s, '
            f'{self.images / total if total else 0:.2f} images/s; time '
            f'outside the model: {100 * self.outside:.1f} %'
        )

    def write(self, path: Path) -> None:
        """Write all of it as JSON: seconds of the thread of the model.

        ``reading`` and ``writing`` are those that it waited for images and
        for writers; what they do meanwhile takes no time of it.
        """
        content = dict(
            images=self.images,
            seconds=self.seconds,
            outside_model=self.outside,
        )
        with atomic_file(path) as file:
            file.write(json.dumps(content, indent=1).encode() + b'\n')
