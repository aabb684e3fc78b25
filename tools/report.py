"""One HTML page about a test run, or about a folder of auto-labels.

    python tools/report.py SHOW_DIR --compare zoo=OTHER_SHOW_DIR
    python tools/report.py LABELS --config CONFIG
        --check config:val_dataloader --prior config:train_dataloader

SHOW_DIR is what test.py --show-dir of mmseg wrote, with ScaleMapsVisualizer
and ScaleMapsVisualizationHook in the config; LABELS what tools/autolabel.py
wrote. Pages hold all they need and open from disk; LABELS/report.json has the
numbers of the page beside it. docs/looking.md and docs/autolabel_report.md
say how to read them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import hmsa_mmseg  # noqa: F401  (first: makes the stack importable)

# isort: split

from hmsa_mmseg.autolabel.config_datasets import PREFIX
from hmsa_mmseg.datasets.autolabel_files import META_FILE
from hmsa_mmseg.reports import ReportOptions, make_report, report_run
from hmsa_mmseg.visualization import FOLDER

PAGE = 'report.html'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; options that are not given are left out."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        'folder',
        type=Path,
        metavar='FOLDER',
        help='SHOW_DIR or LABELS, which is told by what it holds',
    )
    run = parser.add_argument_group('of a test run')
    add = run.add_argument
    add(
        '--compare',
        nargs='+',
        action='extend',
        metavar='NAME=PATH',
        help='other runs: a show-dir, a JSON file that test.py of mmseg '
        'wrote, scalars.json of a training, or {"mIoU": percent, "IoU": '
        '{class: percent}}',
    )
    out = f'default: {PAGE} in SHOW_DIR'
    add('-o', '--out', type=Path, metavar='PAGE.html', help=out)
    add('--title', help='of the page; default: name of the config')
    add('--name', help='of the run, in comparisons; default: this run')
    for name, metavar, limits, text in (
        ('max-images', 'N', (0,), 'so many have pictures, the worst; 20'),
        ('max-mb', 'MB', (0.0,), 'that their pictures take at most; 60'),
        ('width', 'PX', (16,), 'of pictures, at most; 1024'),
    ):
        add(f'--{name}', type=_number(*limits), metavar=metavar, help=text)
    labels = parser.add_argument_group('of auto-labels')
    add = labels.add_argument
    add('--config', help='whose data sets the next three options mean')
    for name, text in (
        (
            'check',
            'data set with true labels; LABELS/check holds the auto-labels '
            'of its images. Without it no threshold is suggested',
        ),
        ('coarse', 'coarse labels of the same images'),
        ('prior', 'true labels whose shares of classes are compared with'),
    ):
        add(f'--{name}', metavar=f'{PREFIX}LOADER', type=_loader, help=text)
    before = 'labels of the round before; default: those that LABELS names'
    add('--previous', type=Path, metavar='DIR', help=before)
    for name, metavar, limits, text in (
        (
            *('threshold', 'T', (0.0, 1)),
            'labels below this confidence are not kept; 0.5, as in the '
            "authors' code",
        ),
        (
            *('target-precision', 'P', (1e-6, 1)),
            'of the pixels that the suggested threshold lets in; 0.5',
        ),
        (
            *('low-coverage', 'SHARE', (0.0, 1)),
            'images that keep less are listed; 0.5',
        ),
        ('worst', 'N', (0, 1000), 'images that are shown; 20'),
        (
            *('workers', 'N', (0, 1000)),
            'processes that read; one for each core, 8 at most; 0: none '
            'beside this one',
        ),
    ):
        add(f'--{name}', type=_number(*limits), metavar=metavar, help=text)
    args = parser.parse_args(argv)
    of_labels = (args.folder / META_FILE).is_file()
    if not of_labels and not (args.folder / FOLDER).is_dir():
        parser.error(
            f'{args.folder}: expected {FOLDER} in it, which test.py '
            '--show-dir writes with ScaleMapsVisualizer and '
            'ScaleMapsVisualizationHook in the config, or '
            f'{META_FILE}, which tools/autolabel.py writes'
        )
    other = run if of_labels else labels
    for action in other._group_actions:
        if hasattr(args, action.dest):
            what = 'auto-labels' if of_labels else 'a test run'
            parser.error(
                f'{action.option_strings[-1]}: {args.folder} is a folder of '
                f'{what}; expected options of it alone'
            )
    _check(parser, args)
    args.of_labels = of_labels
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    compared = getattr(args, 'compare', [])
    names = [getattr(args, 'name', 'this run')]
    names += [text.partition('=')[0] for text in compared]
    for name in names:
        if names.count(name) > 1:
            parser.error(f'--compare: two runs have the name {name!r}')
    wanted = [n for n in ('check', 'coarse', 'prior') if hasattr(args, n)]
    if wanted and not hasattr(args, 'config'):
        parser.error(f'--{wanted[0]}: expected --config beside it')


def _number(least: float, most: float = float('inf')) -> Any:
    """Read a number of the type of the first limit."""

    def read(text: str) -> float:
        value = type(least)(text)
        if not least <= value <= most:
            up_to = 'or more' if most == float('inf') else f'to {most:g}'
            raise argparse.ArgumentTypeError(
                f'expected {least:g} {up_to}, got {value}'
            )
        return value

    read.__name__ = 'number'
    return read


def _loader(text: str) -> str:
    if not text.startswith(PREFIX):
        raise argparse.ArgumentTypeError(
            f'expected {PREFIX}<loader>, such as {PREFIX}val_dataloader, got '
            f'{text!r}'
        )
    return text


def main(argv: list[str] | None = None) -> int:
    """Write the page and say how large it is; 1 on an error."""
    args = vars(parse_args(argv))
    folder = args.pop('folder')
    of_labels = args.pop('of_labels')
    out, told = args.pop('out', folder / PAGE), ''
    try:
        if of_labels:
            args.setdefault('workers', min(8, os.cpu_count() or 1))
            options = ReportOptions(labelled=args.pop('check', None), **args)
            out = make_report(folder, options)
        else:
            others, most = args.pop('compare', ()), args.pop('max_mb', 60)
            page = report_run(
                folder, out, others, max_bytes=most * 1e6, **args
            )
            for note in page.notes:
                print(f'warning: {note}', file=sys.stderr)
            limit = f', limited by {page.limit}' if page.limit else ''
            told = (
                f', {page.num_shown} of {page.num_images} images with '
                f'pictures{limit}'
            )
    # RuntimeError: a process that reads was killed.
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{out} was not written', file=sys.stderr)
        return 1
    print(f'{out}: {os.path.getsize(out) / 1e6:.1f} MB{told}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
