"""Names and colours of classes, as a user writes them down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class ClassNames(NamedTuple):
    """The classes of a data set, in the order of their numbers."""

    names: tuple[str, ...]
    #: Their colours, RGB; None where none are given.
    palette: list[list[int]] | None


def read_classes(text: str) -> ClassNames:
    """Read the classes of a command line or a file.

    Args:
        text (str): ``road,tree,sky``, or the path of a text file with a
            class in each line, ``road`` or ``road 128 64 128`` with its
            colour.

    Raises:
        ValueError: If there are fewer than two, a name occurs twice, or some
            have a colour and some none.
    """
    path = Path(text)
    if not path.is_file():
        if path.suffix and ',' not in text:
            raise ValueError(f'classes: the file {text} does not exist')
        names, colors = [name.strip() for name in text.split(',')], []
    else:
        lines = [line.split() for line in path.read_text().splitlines()]
        rows = [class_line(line, text) for line in lines if line]
        names = [name for name, _ in rows]
        colors = [color for _, color in rows if color]
    names = [name for name in names if name]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f'classes: expected two or more different names, got {names}'
        )
    if colors and len(colors) < len(names):
        raise ValueError(
            f'{text}: {len(colors)} of {len(names)} classes have a colour; '
            'expected all or none, as "road 128 64 128"'
        )
    return ClassNames(tuple(names), colors or None)


def class_line(words: Sequence[str], path: str) -> tuple[str, list[int]]:
    """Split the words of a line of a file into name and RGB colour, if any."""
    numbers = words[-3:]
    if len(words) < 4 or not all(word.isdigit() for word in numbers):
        return ' '.join(words), []
    color = [int(word) for word in numbers]
    if max(color) > 255:
        raise ValueError(
            f'{path}: a colour is three numbers of 0 to 255, got {color}'
        )
    return ' '.join(words[:-3]), color
