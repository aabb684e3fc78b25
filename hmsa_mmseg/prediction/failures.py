"""Files that could not be done, and whether the run goes on."""

from __future__ import annotations

from .errors import InferError
from .progress import Progress


class Failures:
    """Files that could not be done.

    Args:
        skip (bool): Whether to go on after one, and list them in the end.
        progress (Progress, optional): Told of those that are skipped.
    """

    def __init__(self, skip: bool, progress: Progress | None = None) -> None:
        self.skip = skip
        self.progress = progress
        self.listed: list[str] = []

    def add(self, error: InferError) -> None:
        """Take note of a file.

        Args:
            error (InferError): Its message names the file.

        Raises:
            InferError: The same, unless such files are skipped.
        """
        if not self.skip:
            raise error
        self.listed.append(str(error))
        if self.progress is not None:
            self.progress.update()
