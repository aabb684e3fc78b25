"""Reading and writing checkpoint files that may be foreign or large."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

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


def _allow_numpy_scalar() -> AbstractContextManager:
    # Before torch 2.5 there is no such list: a file with a numpy scalar is
    # refused there.
    safe_globals = getattr(torch.serialization, 'safe_globals', None)
    return nullcontext() if safe_globals is None else safe_globals(_ALLOWED)


def safe_load(path: str | os.PathLike) -> object:
    """Load a file of ``torch.save`` on the CPU without running its code.

    Args:
        path (str | os.PathLike): A file that holds tensors, plain Python
            types and numpy float64 scalars.

    Returns:
        object: What was saved.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, no file of ``torch.save``, or holds
            objects of any other type.
    """
    try:
        with _allow_numpy_scalar():
            return torch.load(path, map_location='cpu', weights_only=True)
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


def atomic_save(obj: object, path: str | os.PathLike) -> None:
    """Save with ``torch.save`` so that the file is either whole or absent.

    An interrupted call leaves what stood at ``path`` before.

    Args:
        obj (object): What ``torch.save`` takes.
        path (str | os.PathLike): Its folder is made if it does not exist.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: os.replace is atomic within one file system only.
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
