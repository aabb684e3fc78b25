"""What the colours of masks mean."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .class_names import ClassNames, class_line
from .transforms.load_seg_labels import IGNORE, UNKNOWN

Colour = tuple[int, int, int]

#: Colours of this name, in small or capital letters, are ignored.
VOID = 'void'
# Of colours that are unknown, so many are named.
_MAX_COLOURS = 10


class ColourTable:
    """Colours, what they mean, and the numbers of the classes.

    Without ``classes`` each name is a class, in the order of its first
    colour, but for :data:`VOID`. With them, colours of other names become
    255, and ``void`` is a name like any other.

    Args:
        path (str | os.PathLike): A text file with a colour in each line,
            ``128 64 128 road`` or ``road 128 64 128``, red first, 0 to 255.
            Several colours may have one name. What follows a ``#`` that
            starts a word is a comment.
        classes (ClassNames, optional): The classes by their numbers.

    Attributes:
        classes (ClassNames): 2 to 254, with the colours that were given, or
            the first of each name.
        ignored (list[str]): Names whose colours become 255.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line is no colour with a name, a colour has two
            names, a class has no colour, or there are too few or too many
            classes.
    """

    def __init__(
        self, path: str | os.PathLike, classes: ClassNames | None = None
    ) -> None:
        self.path = path
        self._names = _read_names(path)
        first: dict[str, Colour] = {}
        for colour, name in self._names.items():
            first.setdefault(name, colour)
        if classes is None:
            names = tuple(name for name in first if name.lower() != VOID)
        else:
            names = classes.names
        lost = [name for name in names if name not in first]
        if lost:
            raise ValueError(
                f'{path}: no colour of the classes {lost}; expected some of '
                f'its names, {[*first]}'
            )
        if not 2 <= len(names) <= UNKNOWN:
            raise ValueError(
                f'{path}: {len(names)} classes, {[*names[:3]]}; expected 2 '
                f'to {UNKNOWN}, beside {VOID}'
            )
        palette = None if classes is None else classes.palette
        self.classes = ClassNames(
            names, palette or [[*first[name]] for name in names]
        )
        self.ignored = [name for name in first if name not in names]
        numbers = {name: number for number, name in enumerate(names)}
        self._numbers = np.full(2**24, UNKNOWN, np.uint8)
        for (red, green, blue), name in self._names.items():
            code = red | green << 8 | blue << 16
            self._numbers[code] = numbers.get(name, IGNORE)

    def encode(self, codes: np.ndarray) -> tuple[np.ndarray, dict]:
        """Look up the classes of pixels, as of :func:`read_colours`.

        Returns:
            tuple[np.ndarray, dict[Colour, int]]: uint8 (H, W), class numbers
            or 255; and the number of pixels of each colour that is not in
            the table, for which that has 255.
        """
        labels = self._numbers[codes]
        is_unknown = labels == UNKNOWN
        if not is_unknown.any():
            return labels, {}
        labels[is_unknown] = IGNORE
        found = np.unique(codes[is_unknown], return_counts=True)
        return labels, {
            (code & 255, code >> 8 & 255, code >> 16): count
            for code, count in zip(*(values.tolist() for values in found))
        }

    def describe(self, unknown: Mapping[Colour, int]) -> str:
        """Say which colours are not in the table, and what is near them.

        A line for each of the most frequent, by their numbers of pixels.
        """
        often = sorted(unknown, key=unknown.get, reverse=True)
        lines = [
            f'  {colour}: {unknown[colour]} px, nearest '
            f'{self._nearest(colour)}'
            for colour in often[:_MAX_COLOURS]
        ]
        if len(often) > _MAX_COLOURS:
            lines.append(f'  and {len(often) - _MAX_COLOURS} more')
        return '\n'.join(lines)

    def _nearest(self, colour: Colour) -> str:
        def distance(other: Colour) -> int:
            return sum((a - b) ** 2 for a, b in zip(colour, other))

        found = min(self._names, key=distance)
        return f'{found} {self._names[found]}'


def _read_names(path: str | os.PathLike) -> dict[Colour, str]:
    """Read the names of the colours, in the order of the file."""
    try:
        # Editors of Windows put a mark at the beginning.
        text = Path(path).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not a text file: {error}') from error
    names: dict[Colour, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = re.split(r'(?:^|\s)#', line)[0].split()
        if not words:
            continue
        colour, name = _colour_line(words, f'{path}, line {number}')
        if names.setdefault(colour, name) != name:
            raise ValueError(
                f'{path}, line {number}: {colour} is {name!r} here and '
                f'{names[colour]!r} above; expected one name for a colour'
            )
    return names


def _colour_line(words: list[str], where: str) -> tuple[Colour, str]:
    """Read a line, whichever of colour and name comes first."""
    found = [
        (tuple(colour), name)
        for name, colour in (
            class_line(order, where)
            for order in (words, words[3:] + words[:3])
        )
        if colour
    ]
    if len({*found}) != 1:
        raise ValueError(
            f'{where}: {" ".join(words)!r}; expected "128 64 128 road" or '
            '"road 128 64 128", a name that is no number and a colour of '
            'three'
        )
    return found[0]
