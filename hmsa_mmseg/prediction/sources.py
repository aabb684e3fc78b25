"""When an image or a video is the one that a result was made from."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """What an input file is known by: not its path, as folders are moved.

    Attributes:
        bytes (int | None): Its length.
        sha256 (str | None): Of its content.

    None is what an earlier version of this package did not write; it counts
    as the same.
    """

    bytes: int | None
    sha256: str | None = None


def source_of(path: str | os.PathLike) -> Source:
    """Read what a file is known by.

    Raises:
        OSError: If it cannot be read.
    """
    stat = os.stat(path)
    return Source(stat.st_size, _digest_of(path, stat.st_size, _changed(stat)))


def is_same(path: Path, source: Source, since: int) -> bool:
    """Whether a file is the one that a result was made from.

    It has as many bytes, and was not touched since; or, where folders have
    been copied, the same content.

    Args:
        path (Path): Of the file.
        source (Source): As it was noted with the result.
        since (int): When the result was written, in nanoseconds.

    Returns:
        bool: False as well if the file cannot be looked at.
    """
    try:
        stat = path.stat()
        if source.bytes not in (None, stat.st_size):
            return False
        changed = _changed(stat)
        if changed < since:
            return True
        return source.sha256 in (
            None,
            _digest_of(path, stat.st_size, changed),
        )
    except OSError:
        return False


def _changed(stat: os.stat_result) -> int:
    # The latter also of a file that was moved here.
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=2**16)
def _digest_of(path: str | os.PathLike, size: int, changed: int) -> str:
    """SHA-256 of a file, read once for each change: videos are large."""
    return file_digest(path)


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: If it cannot be read.
    """
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
