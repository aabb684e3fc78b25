"""Checks of arguments that several classes take."""

from __future__ import annotations


def is_integer(value: object, least: int) -> bool:
    """Whether a value is an integer of ``least`` or more; True is none."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and value >= least


def check_integer(name: str, value: object, least: int = 0) -> int:
    """Return an argument of a class, if it is an integer and large enough."""
    if not is_integer(value, least):
        raise ValueError(
            f'{name} must be an integer of {least} or more, got {value!r}'
        )
    return value
