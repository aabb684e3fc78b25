"""Reading checkpoint files that may be foreign or large."""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from hmsa_mmseg import compat


class _History(HistoryBuffer):
    """Takes the numbers of mmengine's log history out of a file."""

    def __setstate__(self, state: dict) -> None:
        # Nothing else: mmengine's lets a file replace methods of the class.
        names = ('max_length', '_log_history', '_count_history')
        super().__setstate__({name: state[name] for name in names})
        self.__class__ = HistoryBuffer


def _history_method(owner: object, name: str) -> Callable:
    """Stand in for ``getattr``, by which files name a history's methods."""
    is_history = owner in (HistoryBuffer, _History)
    if not is_history or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(
            f'Unsupported lookup: GLOBAL getattr({owner}, {name!r}); expected '
            "min, max, current or mean of mmengine's HistoryBuffer"
        )
    return getattr(HistoryBuffer, name)


# What a file may hold beside tensors and plain types: numbers of numpy, as
# the authors store their mean IoU, and mmengine its best score and its log
# history. numpy 2 renamed the module.
_scalar = np.float64(0).__reduce__()[0]
_array = np.zeros(0).__reduce__()[0]
_CORES = ('numpy.core', 'numpy._core')
_ALLOWED = [
    *((_scalar, f'{core}.multiarray.scalar') for core in _CORES),
    *((_array, f'{core}.multiarray._reconstruct') for core in _CORES),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in '?bBhHiIlLqQefd'},
    (_History, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_history_method, 'builtins.getattr'),
]
# How torch.load names what it refuses.
_BLOCKED = r"(?:GLOBAL |got <class '|unrecognized function <\w+ )([\w.[\]]+)"
# A flag of MS-DOS. torch.load reads no content of such an entry, and gives
# what the memory held before.
_IS_FOLDER = 0x10
_DAMAGED = 'it is damaged or no file of torch.save'


# For mmengine's own torch.load: of test.py, --resume and MMSegInferencer. With
# a torch that takes no names they read any file, and run its code.
if compat.loads_by_name():
    torch.serialization.add_safe_globals(_ALLOWED)


def _torch_load(path: str, mapped: bool) -> object:
    kwargs = dict(map_location='cpu')
    if mapped and compat.maps_files():
        kwargs.update(mmap=True)
    if compat.loads_by_name():
        # Again: whoever uses torch's safe_globals for the same takes it away.
        torch.serialization.add_safe_globals(_ALLOWED)
        return torch.load(path, weights_only=True, **kwargs)
    # Not above: it is made of private parts of torch.
    from .restricted_pickle import refuse_programs, restricted_pickle

    refuse_programs(path)
    kwargs.update(pickle_module=restricted_pickle(_ALLOWED))
    return torch.load(path, weights_only=False, **kwargs)


def check_crc(path: str | os.PathLike) -> None:
    """Compare each entry of a file of ``torch.save`` with its checksum.

    ``torch.load`` does not: it takes a tensor with a flipped bit as it is.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no zip archive, is cut short, or an entry does
            not match its checksum.
    """
    path = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            folders = [
                info.filename
                for info in archive.infolist()
                if info.external_attr & _IS_FOLDER
            ]
    # A damaged header leads to errors of several types, of the system where
    # it sends the reader to a place before the file.
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f'cannot load {path}: {_DAMAGED}: {error}, file size '
            f'{os.path.getsize(path)} bytes'
        ) from error
    if bad is not None:
        raise ValueError(
            f'cannot load {path}: {_DAMAGED}: the checksum of its entry '
            f'{bad} is wrong'
        )
    if folders:
        raise ValueError(
            f'cannot load {path}: {_DAMAGED}: its entry {folders[0]} says '
            'that it is a folder'
        )


def safe_load(path: str | os.PathLike, mapped: bool = False) -> object:
    """Load a file of ``torch.save`` on the CPU without running its code.

    Args:
        path (str | os.PathLike): A file that holds tensors, plain Python
            types, numbers of numpy and the log history that mmengine's own
            hook saves.
        mapped (bool): Do not read tensors before they are used, nor compare
            checksums: a quick look at the rest.

    Returns:
        object: What was saved.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, no file of ``torch.save``, or holds
            objects of any other type.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise IsADirectoryError(
            f'{path} is a folder; expected a checkpoint in it'
        )
    if not os.path.exists(path):
        raise FileNotFoundError(
            f'{path}: there is no such checkpoint; expected the path of a file'
        )
    with open(path, 'rb') as file:
        is_zip = file.read(4) == b'PK\3\4'  # As torch.load finds out.
    if is_zip and not mapped:
        check_crc(path)
    try:
        return _torch_load(path, mapped)
    # What torch.load raises for a file that is none has no common type: of
    # some that are cut short, it is an error of the system.
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        # Not the whole message: it advises to load without this protection.
        blocked = re.search(_BLOCKED, str(error))
        reason = blocked and (
            f'it holds an object of type or function {blocked.group(1)}, '
            'which is not loaded, as that could run code; expected tensors, '
            "plain Python values, numbers of numpy and mmengine's "
            'HistoryBuffer'
        )
        raise ValueError(
            f'cannot load {path}: {reason or _DAMAGED}'
        ) from error


def load_from_local(filename: str, map_location: object = None) -> object:
    """Load a local file for mmengine, whose own loader notices no damage.

    Weights come on the CPU, whatever ``map_location`` says; what reads them
    brings them where it needs them.
    """
    return safe_load(filename)


# All ways into mmengine: test.py, load_from, --resume, MMSegInferencer,
# init_cfg of type Pretrained.
CheckpointLoader.register_scheme(
    prefixes='', loader=load_from_local, force=True
)
