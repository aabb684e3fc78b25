"""How a command ends: by itself, by a signal, by an error."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from .errors import SpaceError, is_full

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Exit status where the disk is full: the number of ENOSPC on Linux.
DISK_FULL = 28


class Stopped(BaseException):
    """A signal has asked for an end.

    Args:
        number (int): Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.number = number


class Stopping:
    """Takes note of SIGINT and SIGTERM.

    The first one ends a run at once, or, while images are predicted, when
    the image at hand is done and all is written. A second one ends it at
    once in any case. To be used in a ``with``; only the main thread of a
    process can take signals, others leave them as they are. What is ignored,
    as SIGINT in the background of a script, stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waits = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopping:
        """Take signals from now on."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take none any more."""
        self.leave()

    def leave(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def wait(self, waits: bool) -> None:
        """Say whether the run itself looks at what was received.

        Raises:
            Stopped: If it does no longer, and something was.
        """
        self._waits = waits
        if not waits and self.received is not None:
            raise Stopped(self.received)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._waits and self.received is None:
            self.received = number
            return
        raise Stopped(number)


def run_to_end(run: Callable[[Stopping], int]) -> int:
    """Run a command, and say in a line what has ended it.

    Args:
        run (Callable): Given what takes signals, it returns the exit status.

    Returns:
        int: Its exit status; 1 on an error, 28 if the disk is full, 128 and
        its number for a signal.
    """
    # Names of files may be of bytes that are no text.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    try:
        with Stopping() as stopping:
            return run(stopping)
    except Stopped as stopped:
        print(f'{stopped}: the same command goes on', file=sys.stderr)
        return 128 + stopped.number
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        # Itself, or what it tells of.
        no_space = isinstance(error, SpaceError) or any(
            map(is_full, (error, error.__cause__))
        )
        return DISK_FULL if no_space else 1
