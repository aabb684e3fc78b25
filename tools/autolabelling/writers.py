"""Threads that write while the model runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

# Results that wait for each thread: enough to even out, little memory.
_DEPTH = 3


class Writers:
    """Threads that work off tasks, in a ``with``.

    At its end all tasks are done. After an error, of a task or of the
    ``with`` itself, those that have not begun are dropped.

    Args:
        threads (int): How many.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._waiting: deque = deque()
        self._depth = _DEPTH * threads

    def put(self, task: Callable[..., None], *args: Any) -> None:
        """Hand over a task; wait while there are too many.

        Raises:
            BaseException: What an earlier task has raised.
        """
        while self._waiting and (
            self._waiting[0].done() or len(self._waiting) >= self._depth
        ):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(task, *args))

    def finish(self) -> None:
        """Wait until all tasks are done.

        Raises:
            BaseException: What one of them has raised.
        """
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Writers:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; see the class."""
        try:
            if error is None:
                self.finish()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
