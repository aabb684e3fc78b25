"""Reading and writing checkpoint files that may be foreign or large."""

from __future__ import annotations

import inspect
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

# A numpy float64 scalar, as the authors store their mean IoU: all that a file
# may hold beside tensors and plain types. numpy 2 renamed the module.
_scalar = np.float64(0).__reduce__()[0]
_ALLOWED = [
    (_scalar, 'numpy.core.multiarray.scalar'),
    (_scalar, 'numpy._core.multiarray.scalar'),
    np.dtype,
    type(np.dtype('float64')),
]
# Before torch 2.1 a file cannot be mapped, and is read.
_CAN_MAP = 'mmap' in inspect.signature(torch.load).parameters


def _allow_numpy_scalar() -> AbstractContextManager:
    # Before torch 2.5 there is no such list: a file with a numpy scalar is
    # refused there.
    safe_globals = getattr(torch.serialization, 'safe_globals', None)
    return nullcontext() if safe_globals is None else safe_globals(_ALLOWED)


def check_crc(path: str | os.PathLike) -> None:
    """Compare each entry of a file of ``torch.save`` with its checksum.

    ``torch.load`` does not: it takes a tensor with a flipped bit as it is.

    Args:
        path (str | os.PathLike): A zip archive, as ``torch.save`` writes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no zip archive, is cut short, or an entry does
            not match its checksum.
    """
    path = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError:
        raise
    # A damaged header leads to errors of several types.
    except Exception as error:
        size = os.path.getsize(path)
        raise ValueError(
            f'cannot load {path}: it is damaged or no file of torch.save: '
            f'{error}, file size {size} bytes'
        ) from error
    if bad is not None:
        raise ValueError(
            f'cannot load {path}: it is damaged or no file of torch.save: '
            f'the checksum of its entry {bad} is wrong'
        )


def safe_load(path: str | os.PathLike, mapped: bool = False) -> object:
    """Load a file of ``torch.save`` on the CPU without running its code.

    Args:
        path (str | os.PathLike): A file that holds tensors, plain Python
            types and numpy float64 scalars.
        mapped (bool): Do not read tensors before they are used, nor compare
            checksums: a quick look at the rest.

    Returns:
        object: What was saved.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, no file of ``torch.save``, or holds
            objects of any other type.
    """
    if not mapped and zipfile.is_zipfile(path):
        check_crc(path)
    kwargs = dict(mmap=True) if mapped and _CAN_MAP else {}
    try:
        with _allow_numpy_scalar():
            return torch.load(
                path, map_location='cpu', weights_only=True, **kwargs
            )
    except OSError:
        raise
    # What torch.load raises for a file that is none has no common type.
    except Exception as error:
        # Not the whole message: it advises to load without this protection.
        blocked = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", str(error))
        if blocked is not None:
            reason = (
                f'it holds an object of type or function {blocked.group(1)}, '
                'which is not loaded, as that could run code; expected '
                'tensors, plain Python values and numpy float64 scalars'
            )
        else:
            reason = 'it is damaged or no file of torch.save'
        raise ValueError(f'cannot load {path}: {reason}') from error


@contextmanager
def atomic_file(
    path: str | os.PathLike,
    check: Callable[[Path], None] | None = None,
    part: Path | None = None,
) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when all is written.

    Whatever interrupts it leaves what stood at ``path`` before; a killed
    process leaves the part it has written as well.

    Args:
        path (str | os.PathLike): Its folder is made if it does not exist.
        check (Callable, optional): Given the path of the written file, it
            raises an error if that must not take the place.
        part (Path, optional): Where to write meanwhile, on the same file
            system. Defaults to None, ``.<name>.<process>.part`` beside it.

    Yields:
        BinaryIO: The file to write to.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: os.replace is atomic within one file system only.
    if part is None:
        part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(part)
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def atomic_save(obj: object, path: str | os.PathLike) -> None:
    """Save with ``torch.save`` so that the file is either whole or absent.

    Args:
        obj (object): What ``torch.save`` takes.
        path (str | os.PathLike): Its folder is made if it does not exist.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_file(path) as file:
        torch.save(obj, file)


def _sync_folder(path: Path) -> None:
    """Let a rename within the folder survive a loss of power."""
    # The file itself is in place; not all systems can open or flush folders.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
