"""Files that are written whole or not at all.

While it is written, a file is ``.<name>.<host>.<process>.part`` beside its
place: of one process alone, wherever others run, and hidden from anything
that looks for ``*.png``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_HOST = re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())[:40] or 'host'
# Earlier versions wrote no host.
_PART = re.compile(r'\.(.+?)(?:\.([A-Za-z0-9-]+))?\.(\d+)\.part')
# File systems take 255 bytes; host, process and dots need up to 60.
_MAX_NAME = 190
# Seconds: more than a small file takes, with clocks that differ.
_NEW = 3600


def part_file(path: Path) -> Path:
    """Return where this process writes a file until it is whole."""
    return path.with_name(f'.{_key(path.name)}.{_HOST}.{os.getpid()}.part')


@contextmanager
def atomic_file(
    path: str | os.PathLike,
    check: Callable[[Path], None] | None = None,
    part: Path | None = None,
    sync: bool = True,
) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when all is written.

    Whatever interrupts it leaves what stood at ``path`` before; a killed
    process leaves the part it has written as well. Of processes that write
    the same file, on one machine or several, the last one wins.

    Args:
        path (str | os.PathLike): Its folder is made if it does not exist.
        check (Callable, optional): Given the path of the written file, it
            raises an error if that must not take the place.
        part (Path, optional): Where to write meanwhile, on the same file
            system. None: :func:`part_file`.
        sync (bool): Whether to wait for the disk, so that the file is whole
            also after a loss of power.

    Yields:
        BinaryIO: The file to write to.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: os.replace is atomic within one file system only.
    part = part_file(path) if part is None else part
    try:
        with named_errors(path):
            with part.open('wb') as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            if check is not None:
                check(part)
            os.replace(part, path)
            if sync:
                _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name a file in errors of which the system does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_json(
    path: str | os.PathLike, content: Any, indent: int | None = 2
) -> None:
    """Write a JSON file that is either whole or absent.

    Raises:
        ValueError: If a number is not finite, which JSON does not know.
    """
    text = json.dumps(content, indent=indent, allow_nan=False)
    with atomic_file(path) as file:
        file.write((text + '\n').encode())


def remove_stale_parts(paths: Iterable[Path], shared: bool = False) -> None:
    """Remove what killed processes have left of some files.

    A part stays if its process, or one of that number, runs on this machine.
    That of a process on another machine is taken as left where files have
    one writer, unless somebody has made a mistake.

    Args:
        paths (Iterable[Path]): Of the files, whether they exist or not.
        shared (bool): Whether all processes write them, as at the start of a
            run: what another machine has begun to write within the last hour
            stays.
    """
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(_key(path.name))
    for folder, keys in folders.items():
        for part in folder.glob('.*.part'):
            match = _PART.fullmatch(part.name)
            if match is None:
                continue
            name, host, _ = match.groups()
            # A name may end like a host: `a.b` of `.a.b.12.part`.
            if keys.isdisjoint((name, f'{name}.{host}')):
                continue
            if _is_stale(part, match, shared):
                part.unlink(missing_ok=True)


def remove_stale_parts_below(folder: Path) -> None:
    """The same, of any file below a folder that all processes write."""
    for part in folder.rglob('.*.part'):
        match = _PART.fullmatch(part.name)
        if match is not None and _is_stale(part, match, shared=True):
            part.unlink(missing_ok=True)


def _is_stale(part: Path, match: re.Match, shared: bool) -> bool:
    _, host, pid = match.groups()
    if host in (None, _HOST):
        return not _runs(int(pid))
    return not (shared and _is_new(part))


def _key(name: str) -> str:
    if len(os.fsencode(name)) <= _MAX_NAME:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _is_new(part: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - part.stat().st_mtime < _NEW
    return False


def _runs(pid: int) -> bool:
    """Whether another process of this number runs here."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Another user's; or a number that is too large for one.
    except (PermissionError, OverflowError):
        pass
    return True


def _sync_folder(path: Path) -> None:
    """Let a rename within the folder survive a loss of power."""
    # The file itself is in place; not all systems can open or flush folders.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
