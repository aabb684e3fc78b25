"""How far a run is, and where its time goes."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import progress as bars
from rich.console import Console

from hmsa_mmseg.utils.files import write_json

from .errors import SpaceError, is_full

# Seconds between two lines in a log.
_PAUSE = 30.0


class Progress:
    """A bar on a terminal, a line now and then in a log, for a ``with``.

    ``done`` counts images that are done, or ``failed``. An error that says
    that the disk is full leaves the ``with`` as a :class:`SpaceError`, which
    tells what was done.
    """

    def __init__(
        self,
        title: str,
        total: int,
        shows: bool = True,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(stderr=True, soft_wrap=True)
        self.title = title
        self.total = total
        self.shows = shows and total > 0
        self.done = self.failed = 0
        self._lock = threading.Lock()
        self._started = self._shown = time.monotonic()
        self._bar = bars.Progress(
            bars.BarColumn(),
            '{task.description}',
            console=self.console,
            disable=not (self.shows and self.console.is_terminal),
        )
        self._task = self._bar.add_task(str(self), total=total)

    def update(self, failed: bool = False) -> None:
        """Count an image; threads may call it."""
        with self._lock:
            self.done += 1
            self.failed += failed
            self._bar.update(self._task, advance=1, description=str(self))
            if time.monotonic() - self._shown >= _PAUSE:
                self._shown = time.monotonic()
                self._print()

    def _print(self) -> None:
        if self.shows and not self.console.is_terminal:
            self.console.print(str(self), highlight=False)

    def __enter__(self) -> Progress:
        """Begin."""
        self._bar.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        """End; see the class."""
        self._bar.stop()
        self._print()
        if isinstance(error, OSError) and is_full(error):
            raise SpaceError(
                f'{error.filename or self.title}: {error.strerror}: '
                f'{self.done - self.failed} of {self.total} images were done '
                'now; nothing is half written. With more space the same '
                'command goes on'
            ) from error

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
        self.seconds = dict(total=0.0, model=0.0, reading=0.0)

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
        return 1 - self.seconds['model'] / max(self.seconds['total'], 1e-9)

    def __str__(self) -> str:
        """One line."""
        total = self.seconds['total']
        return (
            f'{self.images} images in {total:.1f} s, '
            f'{self.images / max(total, 1e-9):.2f} images/s; time '
            f'outside the model: {100 * self.outside:.1f} %'
        )

    def write(self, path: Path) -> None:
        """Write all of it as JSON: seconds of the thread of the model.

        ``reading`` and ``writing`` are those that it waited for images and
        for writers; what they do meanwhile takes no time of it.
        """
        total, model, reading = self.seconds.values()
        content = dict(
            images=self.images,
            seconds=dict(self.seconds, writing=total - model - reading),
            outside_model=self.outside,
        )
        write_json(path, content, indent=1)
