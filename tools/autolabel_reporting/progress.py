"""A line that says how far the reading is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

# Seconds between two lines: on a terminal one is written over the other.
_PAUSES = {True: 0.5, False: 10.0}


class Progress:
    """Writes what is done, the rate, and the time that is left.

    To standard error, to be used as a context.

    Args:
        shows (bool): Whether anything is written.
    """

    def __init__(self, shows: bool) -> None:
        self.shows = shows
        self.on_terminal = sys.stderr.isatty()
        self.is_open = False

    def __enter__(self) -> Progress:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the line."""
        self._end()

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """Begin to count.

        Args:
            what (str): What is counted.
            total (int): How many there are.

        Returns:
            Callable: To be given the number of those that are done now.
        """
        self._end()
        began = shown = time.monotonic()
        done = 0

        def update(count: int) -> None:
            nonlocal done, shown
            done += count
            now = time.monotonic()
            pause = _PAUSES[self.on_terminal]
            if self.shows and (now - shown >= pause or done >= total):
                shown = now
                self._show(what, done, total, max(now - began, 1e-6))

        return update

    def _show(self, what: str, done: int, total: int, seconds: float) -> None:
        rate = done / seconds
        left = round((total - done) / rate)
        clock = f'{left // 3600}:{left // 60 % 60:02}:{left % 60:02}'
        text = f'{what}: {done} of {total}, {rate:.1f} a second, {clock} left'
        start, end = ('\r\033[K', '') if self.on_terminal else ('', '\n')
        print(start + text, end=end, file=sys.stderr, flush=True)
        self.is_open = self.on_terminal

    def _end(self) -> None:
        if self.is_open:
            print(file=sys.stderr)
        self.is_open = False
