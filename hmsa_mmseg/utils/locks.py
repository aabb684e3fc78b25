"""One writer to a folder at a time."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from contextlib import suppress
from typing import IO

from mmengine.logging import print_log

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_HELD = (errno.EACCES, errno.EAGAIN)
#: Locks of this process, which end with it, however it ends.
_files: dict[str, IO[str]] = {}


def lock_file(path: str | os.PathLike, what: str) -> None:
    """Take a lock that no other process can have at the same time.

    It is one of POSIX, held by this process alone, not by those that it
    starts, and given up when it ends or is killed; a file that stays means
    nothing by itself. NFS passes such locks on where its server supports
    them. Where the file system does not, or on Windows, a warning says that
    nothing guards the folder.

    Args:
        path (str | os.PathLike): Of the lock's file, which is made.
        what (str): What runs, for the message to others.

    Raises:
        OSError: If the file cannot be written.
        RuntimeError: If another process has the lock.
    """
    path = os.path.abspath(path)
    if path in _files:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(path, 'a+')  # noqa: SIM115  (open as long as it is locked)
    try:
        if fcntl is None:
            raise OSError(errno.ENOLCK, 'this system has no such locks')
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(file, path):  # Given up in between.
            file.close()
            lock_file(path, what)
            return
    except OSError as error:
        if error.errno in _HELD:
            file.seek(0)
            holder = ' '.join(file.read().split()) or 'another process'
            file.close()
            raise RuntimeError(
                f'{os.path.dirname(path)} is in use by {holder}; expected '
                f'one {what} in a folder at a time: wait for it, stop it, or '
                'give another folder'
            ) from error
        print_log(
            f'{path} cannot be locked ({error}): nothing keeps another {what} '
            'out of this folder',
            logger='current',
            level=logging.WARNING,
        )
    file.seek(0)
    file.truncate()
    started = time.strftime('%Y-%m-%d %H:%M:%S')
    file.write(
        f'{what}, process {os.getpid()} on {socket.gethostname()} since '
        f'{started}\n'
    )
    file.flush()
    _files[path] = file


def unlock_file(path: str | os.PathLike) -> None:
    """Give up a lock of :func:`lock_file`, if there is one."""
    file = _files.pop(os.path.abspath(path), None)
    if file is not None:
        with suppress(OSError):
            os.unlink(path)
        file.close()


def _is_at(file: IO[str], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
