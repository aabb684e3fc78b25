"""What ends a run: errors and signals, and the exit status of each."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Exit status where the disk is full: the number of ENOSPC on Linux.
_DISK_FULL = 28


class PredictionError(ValueError):
    """A run cannot be done as asked for; says what was expected."""


class SpaceError(PredictionError):
    """There is no space left, or there will be none before the end."""


class BadInputError(PredictionError):
    """An image or a video that cannot be done.

    Args:
        reason (str): A short key, such as ``undecodable``.
        message (str): In one line, with the path of the file.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Stopped(BaseException):
    """A signal, of this number, has asked for an end."""

    def __init__(self, number: int) -> None:
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.number = number


class Stopping:
    """Takes note of SIGINT and SIGTERM, in a ``with``.

    The first one ends a run at once, or, while images are predicted, when
    the image at hand is done and all is written. A second one ends it at
    once in any case. Only the main thread of a process can take signals,
    others leave them as they are. What is ignored, as SIGINT in the
    background of a script, stays so.
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

    def __exit__(self, *error: object) -> None:
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

    Returns:
        int: The exit status that ``run`` gives; 1 on an error, 28 if the
        disk is full, 128 and its number for a signal.
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
        return _DISK_FULL if no_space else 1


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk, or a quota on it, is full."""
    number = getattr(error, 'errno', None)
    return number in (errno.ENOSPC, errno.EDQUOT)


def in_one_line(error: BaseException) -> str:
    """Give an error in one line, of whatever type it is."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:400]}'
