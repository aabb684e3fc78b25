"""Python source of config values, laid out as in this project's configs."""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 79
_STEP = 4

Path = tuple[str, ...]


class Name(str):
    """A variable, written by its name."""

    __slots__ = ()


def assignment(
    name: str, value: Any, comments: Mapping[Path, Sequence[str]] | None = None
) -> str:
    """Write ``name = value``.

    Args:
        name (str): Of the variable.
        value (Any): Of dicts, lists, tuples, numbers, strings, None and
            :class:`Name`.
        comments (Mapping, optional): By the path of a key, ``name`` first,
            lines to write above it. Defaults to None.

    Returns:
        str: Lines, the last one ended.

    Raises:
        TypeError: If a value of another type cannot be written.
    """
    writer = _Writer(comments or {})
    above = writer.lines_above((name,), 0)
    return (
        f'{above}{name} = {writer.write(value, (name,), 0, len(name) + 3)}\n'
    )


class _Writer:
    """Writes values, on one line where they fit."""

    def __init__(self, comments: Mapping[Path, Sequence[str]]) -> None:
        self.comments = comments

    def lines_above(self, path: Path, indent: int) -> str:
        lines = self.comments.get(path, ())
        return ''.join(f'{" " * indent}# {line}\n' for line in lines)

    def write(self, value: Any, path: Path, indent: int, column: int) -> str:
        """Write a value that starts at a column and continues indented."""
        # One more for the comma that may follow.
        commented = any(
            len(key) > len(path) and key[: len(path)] == path
            for key in self.comments
        )
        line = inline(value)
        room = WIDTH - (1 if indent else 0)
        is_leaf = not isinstance(value, (Mapping, list, tuple)) or not value
        if is_leaf or (not commented and column + len(line) <= room):
            return line
        start, end, items = _parts(value)
        inner = indent + _STEP
        if not commented and start == 'dict(':
            # All arguments on one line of their own.
            line = line[len(start) : -len(end)]
            if inner + len(line) <= WIDTH:
                return f'{start}\n{" " * inner}{line}\n{" " * indent}{end}'
        lines = []
        for key, prefix, item in items:
            below = (*path, key)
            lines.append(self.lines_above(below, inner))
            text = self.write(item, below, inner, inner + len(prefix))
            lines.append(f'{" " * inner}{prefix}{text},\n')
        return f'{start}\n{"".join(lines)}{" " * indent}{end}'


def inline(value: Any) -> str:
    """Write a value on one line.

    Raises:
        TypeError: If it is of a type that cannot be written.
    """
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, (Mapping, list, tuple)):
        start, end, items = _parts(value)
        text = ', '.join(prefix + inline(item) for _, prefix, item in items)
        is_single = isinstance(value, tuple) and len(value) == 1
        return f'{start}{text}{"," if is_single else ""}{end}'
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise TypeError(
        f'{value!r} of type {type(value).__name__} cannot be written into a '
        'config; expected dicts, lists, tuples, numbers, strings and None'
    )


def _parts(
    value: Mapping | Sequence,
) -> tuple[str, str, list[tuple[str, str, Any]]]:
    """Brackets of a collection, and key, prefix and value of its items."""
    if isinstance(value, Mapping):
        if all(_is_argument(key) for key in value):
            return (
                'dict(',
                ')',
                [(key, f'{key}=', item) for key, item in value.items()],
            )
        return (
            '{',
            '}',
            [(str(k), f'{k!r}: ', item) for k, item in value.items()],
        )
    start, end = '[]' if isinstance(value, list) else '()'
    return start, end, [(str(i), '', item) for i, item in enumerate(value)]


def _is_argument(key: object) -> bool:
    return (
        isinstance(key, str)
        and key.isidentifier()
        and not keyword.iskeyword(key)
    )
