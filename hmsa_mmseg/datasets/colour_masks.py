"""Masks of colours, turned into masks of class numbers."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from mmengine import fileio
from PIL import Image

from hmsa_mmseg.utils import atomic_file

from .colour_table import ColourTable
from .folder import IMG_SUFFIXES
from .png_files import encode_grey, is_intact

_JPEG = (
    'a JPEG, whose compression changes colours; expected the mask as PNG, '
    'from where it was drawn: a converted JPEG has the same wrong colours'
)
# Bit depth and colour type of a PNG file: RGB, RGBA and palettes.
_KINDS = {(8, 2), (8, 6), (1, 3), (2, 3), (4, 3), (8, 3)}


def convert_mask(
    source: str | os.PathLike,
    out: str | os.PathLike,
    table: ColourTable,
    unknown: str = 'error',
) -> tuple[np.ndarray, dict]:
    """Write the class numbers of a mask as a grey PNG of 8 bits.

    Args:
        source (str | os.PathLike): As :func:`read_colours` takes it.
        out (str | os.PathLike): What stands there is replaced when all is
            written.
        table (ColourTable): What the colours mean.
        unknown (str): What to do about colours that are not in the table:
            'error' or 'ignore' (they become 255).

    Returns:
        tuple[np.ndarray, dict[Colour, int]]: (256,), the pixels of each
        value; and those of each colour that is not in the table.
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

    Raises:
        ValueError: If there are no masks, there are JPEGs, names end in
            something else, results would share a name, or be in the folder.
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
