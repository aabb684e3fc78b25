"""What can be wrong with a run that labels images."""

from __future__ import annotations

from hmsa_mmseg.prediction.errors import InferError

#: Exit status where the disk is full: the number of ENOSPC on Linux.
DISK_FULL = 28


class SpaceError(InferError):
    """There is no space left, or there will be none before the end."""


class BadImageError(InferError):
    """An image that is not labelled.

    Args:
        reason (str): A short key, such as ``undecodable``.
        message (str): In one line, what is wrong.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
