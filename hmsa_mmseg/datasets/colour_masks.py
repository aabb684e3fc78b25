"""Masks of colours, turned into masks of class numbers."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mmengine import fileio
from PIL import Image

from hmsa_mmseg.utils import atomic_file

from .class_names import ClassNames, class_line
from .folder import IMG_SUFFIXES
from .png_files import encode_grey, is_intact
from .transforms.load_seg_labels import IGNORE, UNKNOWN

Colour = tuple[int, int, int]

#: Colours of this name, in small or capital letters, are ignored.
VOID = 'void'
# Of colours that are unknown, so many are named.
_MAX_COLOURS = 10
_JPEG = (
    'a JPEG, whose compression changes colours; expected the mask as PNG, '
    'from where it was drawn: a converted JPEG has the same wrong colours'
)
# Bit depth and colour type of a PNG file: RGB, RGBA and palettes.
_KINDS = {(8, 2), (8, 6), (1, 3), (2, 3), (4, 3), (8, 3)}


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

        Returns uint8 (H, W), class numbers or 255; and the number of pixels
        of each colour that is not in the table, for which that has 255.
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


def convert_mask(
    source: str | os.PathLike,
    out: str | os.PathLike,
    table: ColourTable,
    unknown: str = 'error',
) -> tuple[np.ndarray, dict]:
    """Write the class numbers of a mask as a grey PNG of 8 bits.

    What stands at ``out`` is replaced when all is written. Colours that are
    not in the table are an error or, if ``unknown`` is 'ignore', become 255.
    Returns the pixels of each value, (256,), and those of each colour that is
    not in the table.
    """
    labels, others = table.encode(read_colours(source))
    if others and unknown == 'error':
        raise ValueError(
            f'{source}: colours that are not in {table.path}:\n'
            f'{table.describe(others)}\n'
            'expected those of the table: add them to it, or ignore them '
            'with --unknown ignore, which counts those of all masks'
        )
    with atomic_file(out) as file:
        file.write(encode_grey(labels))
    return np.bincount(labels.ravel(), minlength=256), others


def read_colours(path: str | os.PathLike) -> np.ndarray:
    """Read the colours of a mask, uint32 (H, W).

    They are red + 256 green + 65536 blue, of a PNG file of 8 bits: RGB, RGBA
    without transparent pixels, or with a palette.

    Raises:
        ValueError: If it is another file, or damaged.
    """
    content = Path(path).read_bytes()
    try:
        if content.startswith(b'\xff\xd8'):
            raise ValueError(_JPEG)
        if content[1:4] != b'PNG':
            raise ValueError('no PNG; expected one')
        # Of the pixels Pillow compares no checksums.
        if not is_intact(content):
            raise ValueError('cut short or damaged')
        image = Image.open(io.BytesIO(content))
        _check_kind(content, image)
        pixels = np.asarray(image.convert('RGBA'))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'{path}: not a mask of colours: {error}') from error
    except Image.DecompressionBombError as error:
        raise ValueError(f'{path}: too large a mask: {error}') from error
    codes = pixels.view('<u4')[..., 0]
    clear = np.count_nonzero(codes >> 24 != 255)
    if clear:
        raise ValueError(
            f'{path}: {clear} pixels are transparent; expected an alpha of '
            '255 everywhere, as colours below another one may be of any kind'
        )
    return codes & 0xFFFFFF


def _check_kind(content: bytes, image: Image.Image) -> None:
    """Refuse what Pillow would make colours of, though it has others."""
    depth, kind = content[24], content[25]
    if kind in (0, 4):
        raise ValueError(
            'it is grey; expected colours. Class numbers need no conversion'
        )
    if (depth, kind) not in _KINDS:
        raise ValueError(f'it has {depth} bits a channel; expected 8')
    if kind == 3:
        size = len(image.palette.palette) // 3
        highest = image.getextrema()[1]
        if highest >= size:
            raise ValueError(
                f'its palette has {size} colours, but a pixel has number '
                f'{highest}'
            )


def mask_pairs(
    masks: str | os.PathLike, out: str | os.PathLike, strip_suffix: str = ''
) -> list[tuple[Path, Path]]:
    """List the masks of a folder, and where their class numbers go.

    Sub-folders are kept; files that are no images, or hidden, are left out.
    ``strip_suffix`` is what all names end in, before ``.png``, and those of
    the results do not.
    """
    masks, out = Path(masks), Path(out)
    if masks.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(
            f'{out} is in {masks}, the folder of the masks; expected another'
        )
    pairs: dict[Path, Path] = {}
    names = fileio.list_dir_or_file(masks, list_dir=False, recursive=True)
    for name in sorted(names):
        path = masks / name
        if path.suffix.lower() not in IMG_SUFFIXES:
            continue
        if path.suffix.lower() in ('.jpg', '.jpeg'):
            raise ValueError(f'{path}: {_JPEG}')
        stem = path.stem
        if not stem.endswith(strip_suffix) or stem == strip_suffix:
            raise ValueError(
                f'{path}: expected a name before {strip_suffix!r} '
                '(--strip-suffix)'
            )
        stem = stem[: len(stem) - len(strip_suffix)]
        result = (out / name).with_name(f'{stem}.png')
        if result in pairs:
            raise ValueError(
                f'{pairs[result]} and {path} would both become {result}; '
                'expected names that differ in more'
            )
        pairs[result] = path
    if not pairs:
        raise ValueError(f'{masks}: no masks; expected PNG files')
    return [(path, result) for result, path in pairs.items()]
