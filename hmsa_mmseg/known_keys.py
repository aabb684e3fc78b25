"""Keys of a config that are misspelt, and the known ones they resemble."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from difflib import get_close_matches

from mmseg import registry


def check_keys(
    where: str,
    keys: Iterable,
    known: Iterable[str],
    error: type[Exception] = ValueError,
) -> None:
    """Refuse keys that are not known, with those they are nearest to."""
    known = [*known]
    unknown = []
    for key in sorted({*keys} - {*known}, key=str):
        near = get_close_matches(str(key), known)
        hint = f' (did you mean {" or ".join(near)}?)' if near else ''
        unknown.append(f'{key!r}{hint}')
    if unknown:
        raise error(
            f'{where} has no setting {", ".join(unknown)}; expected some of '
            f'{", ".join(known)}'
        )


def check_keys_of_classes() -> None:
    """Have all registered classes of this package check their keys.

    Python's own message names neither the nearest key nor the others, and a
    base class with ``**kwargs`` may take any. Subclasses elsewhere, which may
    take more, are left alone.
    """
    package = __name__.split('.')[0]
    found = {
        cls
        for name in registry.__all__
        for cls in getattr(registry, name).module_dict.values()
        if cls.__module__.split('.')[0] == package
    }
    for cls in found:
        _check_keys_of(cls)


def _check_keys_of(cls: type) -> None:
    init, known = cls.__init__, _keys_of(cls)

    @functools.wraps(init)
    def checked(self, *args, **kwargs):
        if type(self) is cls:
            check_keys(cls.__name__, kwargs, known, TypeError)
        init(self, *args, **kwargs)

    # For those who do not look below a wrapper, as inspect.getfullargspec.
    checked.__signature__ = inspect.signature(init)
    cls.__init__ = checked


def _keys_of(cls: type) -> list[str]:
    """List what a class takes: of its bases, what ``**kwargs`` goes to."""
    known = {}
    for base in cls.__mro__[:-1]:
        if '__init__' not in vars(base):
            continue
        _, *parameters = inspect.signature(base.__init__).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                known[parameter.name] = None
        kinds = [parameter.kind for parameter in parameters]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return [*known]
