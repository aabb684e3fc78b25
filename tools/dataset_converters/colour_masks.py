"""Turn masks of colours into masks of class numbers.

    hmsa masks MASKS OUT --table TABLE

writes a grey PNG of 8 bits for each PNG in MASKS, and the classes by their
numbers for hmsa from-zoo. TABLE has a colour and a name in each line,
`128 64 128 road` or `road 128 64 128`. Results that are there are written
anew, each at once: after a kill, run it again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

import hmsa_mmseg  # noqa: F401  (prepares the stack)

# isort: split

from hmsa_mmseg.datasets.class_names import ClassNames, read_classes
from hmsa_mmseg.datasets.colour_masks import (
    ColourTable,
    convert_mask,
    mask_pairs,
)
from hmsa_mmseg.datasets.transforms.load_seg_labels import IGNORE
from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.files import remove_stale_parts


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('masks', help='folder of the masks of colours')
    parser.add_argument('out', help='folder to write')
    parser.add_argument(
        '--table', required=True, help='text file of colours and names'
    )
    parser.add_argument(
        '--classes',
        metavar='NAMES',
        help='names from number 0 on, road,tree,sky or a file with one in '
        'each line; colours of other names become 255. Default: the names of '
        'the table in its order, but for void, which becomes 255',
    )
    parser.add_argument(
        '--unknown',
        choices=('error', 'ignore'),
        default='error',
        help='what to do about colours that are not in the table: stop, or '
        'make them 255 and count them. Default: error',
    )
    parser.add_argument(
        '--strip-suffix',
        default='',
        metavar='TEXT',
        help='end of the names of masks that those of the images do not '
        'have: _L makes a.png of a_L.png',
    )
    parser.add_argument(
        '--classes-out',
        type=Path,
        metavar='FILE',
        help='where to write names and colours of the classes. Default: '
        'classes.txt beside OUT',
    )
    return parser.parse_args(argv)


def has_classes(path: Path, classes: ClassNames) -> bool:
    """Whether a file of the classes is there; ValueError if of others."""
    if not path.exists():
        return False
    found = read_classes(str(path)).names
    if found != classes.names:
        raise ValueError(
            f'{path} has the classes {[*found]}; the masks get '
            f'{[*classes.names]}. Remove it, or give another file with '
            '--classes-out, or its classes with --classes'
        )
    return True


def class_file(classes: ClassNames) -> str:
    """Format classes for hmsa from-zoo."""
    return ''.join(
        f'{name} {red} {green} {blue}\n'
        for name, (red, green, blue) in zip(*classes)
    )


def pixel_table(names: Sequence[str], pixels: np.ndarray) -> str:
    """Format how many pixels each value has; the last name is that of 255."""
    width = max(len(name) for name in names)
    total = max(pixels.sum(), 1)
    return '\n'.join(
        f'{value:5}  {name:{width}}  {count:14,}  {count / total:7.2%}'
        for value, name, count in zip(
            [*range(len(names) - 1), IGNORE],
            names,
            [*pixels[: len(names) - 1], pixels[IGNORE]],
        )
    )


def main(argv: list[str] | None = None) -> int:
    """Convert, and print what the pixels are; 1 on an error."""
    args = parse_args(argv)
    path = args.classes_out
    if path is None:
        path = Path(os.path.abspath(args.out)).parent / 'classes.txt'
    pixels, unknown, done = np.zeros(256, np.int64), Counter(), 0
    try:
        given = None if args.classes is None else read_classes(args.classes)
        table = ColourTable(args.table, given)
        is_there = has_classes(path, table.classes)
        pairs = mask_pairs(args.masks, args.out, args.strip_suffix)
        remove_stale_parts(out for _, out in pairs)
        for source, out in track(pairs, 'masks', console=Console(stderr=True)):
            counts, others = convert_mask(source, out, table, args.unknown)
            pixels += counts
            unknown.update(others)
            done += 1
        if not is_there:
            with atomic_file(path) as file:
                file.write(class_file(table.classes).encode())
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        if done:
            print(f'{done} masks before it were written', file=sys.stderr)
        return 1
    if unknown:
        print(
            f'255 now: {len(unknown)} colours that are not in {args.table}, '
            f'{sum(unknown.values())} px:\n{table.describe(unknown)}'
        )
    ignored = [*table.ignored, *(['unknown'] if unknown else [])] or ['none']
    ignored = f'ignored: {", ".join(ignored)}'
    print(pixel_table([*table.classes.names, ignored], pixels))
    print(f'{done} masks: {args.out}')
    print(f'classes, {"as they were" if is_there else "written"}: {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
