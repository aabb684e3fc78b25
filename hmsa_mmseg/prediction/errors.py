"""What can be wrong with a run of predictions."""

from __future__ import annotations

import errno


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


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk, or a quota on it, is full."""
    number = getattr(error, 'errno', None)
    return number in (errno.ENOSPC, errno.EDQUOT)


def in_one_line(error: BaseException) -> str:
    """Give an error in one line, of whatever type it is."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:400]}'


def in_short(value: object, limit: int = 100) -> str:
    """Give a value as in code, cut off after so many characters."""
    text = repr(value)
    return text if len(text) < limit else f'{text[:limit]} ...'
