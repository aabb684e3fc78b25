"""Unpickling that constructs nothing but what is named in a list.

For versions of torch whose ``weights_only=True`` takes no names: a list like
that of ``torch.serialization.add_safe_globals``, and as strict.
"""

from __future__ import annotations

import codecs
import pickle
import tarfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterable
from types import ModuleType

from torch import serialization
from torch._weights_only_unpickler import _get_allowed_globals


def _check(value: object, known: Iterable[object]) -> None:
    if not any(value is one for one in known):
        name = getattr(value, '__qualname__', type(value).__qualname__)
        raise pickle.UnpicklingError(f'GLOBAL {name}')


class _RestrictedUnpickler(pickle._Unpickler):
    """Reads what torch's own list and ``allowed`` name.

    The Python version of pickle's class: of its C version a subclass cannot
    restrict calls and states.
    """

    allowed: tuple = ()
    known: dict[str, object] = {}

    def find_class(self, module: str, name: str) -> object:
        # Names of Python 2, which protocol 2 writes, to those of today.
        module = IMPORT_MAPPING.get(module, module)
        full_name = f'{module}.{name}'
        if full_name not in self.known:
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')
        return self.known[full_name]

    def load_reduce(self) -> None:
        """Call a function."""
        _check(self.stack[-2], self.known.values())
        super().load_reduce()

    def load_newobj(self) -> None:
        """Create an object without its ``__init__``."""
        _check(self.stack[-2], self.known.values())
        super().load_newobj()

    def load_build(self) -> None:
        """Set the state of an object; never that of a class."""
        _check(type(self.stack[-2]), (OrderedDict, *self.allowed))
        super().load_build()

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
    }
    # They create objects, and files of torch.save do not hold them.
    for code in (pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ):
        del dispatch[code[0]]


def restricted_pickle(allowed: list) -> ModuleType:
    """Make what ``torch.load`` takes as ``pickle_module``.

    ``allowed`` are classes, functions and pairs of one of them and the full
    name by which files know it.
    """
    pairs = [
        entry
        if isinstance(entry, tuple)
        else (entry, f'{entry.__module__}.{entry.__qualname__}')
        for entry in allowed
    ]

    class Unpickler(_RestrictedUnpickler):
        allowed = tuple(value for value, _ in pairs)
        known = {
            **_get_allowed_globals(),
            # Of bytes and sets; torch 2.0 has neither.
            '_codecs.encode': codecs.encode,
            'builtins.set': set,
            **{name: value for value, name in pairs},
        }

    module = ModuleType('restricted_pickle')
    module.Unpickler = Unpickler
    module.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()
    return module


def refuse_programs(path: str) -> None:
    """Refuse what ``torch.load`` does not leave to ``pickle_module``.

    Raises:
        UnpicklingError: If it is an archive of TorchScript, whose loading
            runs its code, or a tar file, which is unpacked on the disk.
    """
    with open(path, 'rb') as file:
        is_zip = serialization._is_zipfile(file)
    if is_zip:
        with serialization._open_zipfile_reader(path) as archive:
            is_program = serialization._is_torchscript_zip(archive)
        if is_program:
            raise pickle.UnpicklingError('GLOBAL torch.jit.ScriptModule')
    elif tarfile.is_tarfile(path):
        raise pickle.UnpicklingError('GLOBAL tarfile.TarFile')
