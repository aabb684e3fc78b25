"""Names of files that are being written, and those that a kill has left.

``.<name>.<host>.<process>.part`` beside the file ``<name>``: of one process
alone, wherever others run, and hidden from anything that looks for ``*.png``.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hmsa_mmseg.utils import atomic_file

_HOST = re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())[:40] or 'host'
# Without a host, as atomic_file names them by itself.
_PART = re.compile(
    r'\.(?P<name>.+?)(?:\.(?P<host>[A-Za-z0-9-]+))?\.(?P<pid>\d+)\.part'
)
# File systems take 255 bytes; host, process and dots need up to 60.
_MAX_NAME = 190
# Seconds: more than a small file takes, with clocks that differ.
_NEW = 3600


def part_file(path: Path) -> Path:
    """Return where this process writes a file until it is whole."""
    return path.with_name(f'.{_key(path.name)}.{_HOST}.{os.getpid()}.part')


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when all is written.

    As :func:`hmsa_mmseg.utils.atomic_file`, also if processes on several
    machines write it at the same time: each its own part, the last one wins.

    Args:
        path (Path): Its folder is made if it does not exist.

    Yields:
        BinaryIO: The file to write to.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_file(path, part=part_file(path)) as file:
        yield file


def remove_stale_parts(paths: Iterable[Path], shared: bool = False) -> int:
    """Remove what killed processes have left of some files.

    A part stays if its process, or one of that number, runs on this machine.
    That of a process on another machine is taken as left where files have
    one writer, unless somebody has made a mistake.

    Args:
        paths (Iterable[Path]): Of the files, whether they exist or not.
        shared (bool): Whether all processes write them, as at the start of a
            run: what another machine has begun to write within the last hour
            stays. Defaults to False.

    Returns:
        int: How many were removed.

    Raises:
        OSError: If one cannot be removed.
    """
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(_key(path.name))
    removed = 0
    for folder, keys in folders.items():
        for part in folder.glob('.*.part'):
            match = _PART.fullmatch(part.name)
            if match is None or not _is_of(match, keys) or _is_alive(match):
                continue
            if shared and _is_foreign(match) and _is_new(part):
                continue
            part.unlink(missing_ok=True)
            removed += 1
    return removed


def _key(name: str) -> str:
    if len(os.fsencode(name)) <= _MAX_NAME:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _is_of(match: re.Match, keys: set[str]) -> bool:
    # A name may end like a host: `a.b` of `.a.b.12.part`.
    return match['name'] in keys or f'{match["name"]}.{match["host"]}' in keys


def _is_foreign(match: re.Match) -> bool:
    return match['host'] not in (None, _HOST)


def _is_new(part: Path) -> bool:
    try:
        return time.time() - part.stat().st_mtime < _NEW
    except FileNotFoundError:
        return False


def _is_alive(match: re.Match) -> bool:
    pid = int(match['pid'])
    if _is_foreign(match) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Another user's; or a number that is too large for one.
    except (PermissionError, OverflowError):
        return True
    return True
