"""Turn a run into one HTML page: images, classes, scales, confidence.

    python tools/report.py SHOW_DIR --compare zoo=OTHER_SHOW_DIR

SHOW_DIR is what test.py --show-dir of mmseg wrote, with ScaleMapsVisualizer
and ScaleMapsVisualizationHook in the config. The page holds all it needs and
opens from disk. It shows the images with the lowest mIoU, each with the
pictures of the run and a slider between any two of them, and lists all; IoU
of each class and each scale, against other runs; how much each class relies
on each scale; and how far confidence can be trusted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import hmsa_mmseg  # noqa: F401  (first: makes the stack importable)

# isort: split

from mmengine.utils import ProgressBar
from reporting.compare import read_other
from reporting.images import Options
from reporting.page import build_page
from reporting.run import ReportError, read_run

from hmsa_mmseg.utils import atomic_file

PAGE = 'report.html'
PAGE_TITLE = 'Report of a run'  # whose config is not known


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = Options._field_defaults
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'folder', type=Path, metavar='SHOW_DIR', help='of the run'
    )
    parser.add_argument(
        '--compare',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=PATH',
        help='other runs: a show-dir, a JSON file that test.py of mmseg '
        'wrote, scalars.json of a training, or {"mIoU": percent, "IoU": '
        '{class: percent}}',
    )
    parser.add_argument(
        *('-o', '--out'),
        type=Path,
        metavar='PAGE.html',
        help=f'default: {PAGE} in SHOW_DIR',
    )
    parser.add_argument(
        '--title', help='of the page; default: name of the config'
    )
    parser.add_argument(
        '--name', default='this run', help='of the run, in comparisons'
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=defaults['max_images'],
        metavar='N',
        help='so many have pictures, the worst ones; default: %(default)s',
    )
    parser.add_argument(
        '--max-mb',
        type=float,
        default=defaults['max_bytes'] / 1e6,
        metavar='MB',
        help='that their pictures take at most; default: %(default)g',
    )
    parser.add_argument(
        '--width',
        type=int,
        default=defaults['width'],
        metavar='PX',
        help='of pictures, at most; default: %(default)s',
    )
    args = parser.parse_args(argv)
    for name, least in (('max_images', 0), ('max_mb', 0), ('width', 16)):
        value = getattr(args, name)
        if not value >= least:
            option = name.replace('_', '-')
            parser.error(f'--{option}: expected {least} or more, got {value}')
    names = [args.name, *(text.partition('=')[0] for text in args.compare)]
    for name in names:
        if names.count(name) > 1:
            parser.error(f'--compare: two runs have the name {name!r}')
    args.out = args.out or args.folder / PAGE
    return args


def main(argv: list[str] | None = None) -> int:
    """Write the page and say how large it is; 1 on an error."""
    args = parse_args(argv)
    try:
        run = read_run(args.folder, args.name)
        others = [read_other(text, run) for text in args.compare]
        config = run.info.get('config')
        options = Options(
            title=args.title or (Path(config).stem if config else PAGE_TITLE),
            max_images=args.max_images,
            max_bytes=args.max_mb * 1e6,
            width=args.width,
        )
        bar = ProgressBar(
            min(args.max_images, len(run.records)), file=sys.stderr
        )
        page = build_page(run, others, options, progress=bar.update)
        print(file=sys.stderr)
        with atomic_file(args.out) as file:
            file.write(page.html.encode())
    except (ReportError, ImportError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{args.out} was not written', file=sys.stderr)
        return 1
    for note in page.notes:
        print(f'warning: {note}', file=sys.stderr)
    limit = f', limited by {page.limit}' if page.limit else ''
    print(
        f'{args.out}: {os.path.getsize(args.out) / 1e6:.1f} MB, '
        f'{page.num_shown} of {page.num_images} images with pictures{limit}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
