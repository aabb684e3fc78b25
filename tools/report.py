"""One HTML page about a test run, or about a folder of auto-labels.

    hmsa report SHOW_DIR --compare zoo=OTHER_SHOW_DIR
    hmsa report LABELS --config CONFIG
        --check config:val_dataloader --prior config:train_dataloader

SHOW_DIR is what hmsa test --show-dir wrote, with ScaleMapsVisualizer
and ScaleMapsVisualizationHook in the config; LABELS what hmsa label
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
from hmsa_mmseg.reports.label_set import is_label_set
from hmsa_mmseg.visualization import FOLDER

PAGE = 'report.html'
PREVIOUS = 'labels of the round before; default: those that LABELS names'
LOADERS = dict(
    check='data set with true labels; LABELS/check holds the auto-labels of '
    'its images. Without it no threshold is suggested',
    coarse='coarse labels of the same images',
    prior='true labels whose shares of classes are compared with',
)
# Least, most, default and meaning.
NUMBERS = {
    'max-images': (0, None, 20, 'so many have pictures, the worst ones'),
    'max-mb': (0.0, None, 60, 'that their pictures take at most'),
    'width': (16, None, 1024, 'of pictures, px, at most'),
    'threshold': (
        *(0.0, 1, "0.5, as in the authors' code"),
        'labels below this confidence are not kept',
    ),
    'target-precision': (
        *(1e-6, 1, 0.5),
        'of the pixels that the suggested threshold lets in',
    ),
    'low-coverage': (0.0, 1, 0.5, 'images that keep less are listed'),
    'worst': (0, 1000, 20, 'images that are shown'),
    'workers': (
        *(0, 1000, 'one for each core, 8 at most'),
        'processes that read; 0: none beside this one',
    ),
}


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
    run.add_argument(
        '--compare',
        nargs='+',
        action='extend',
        metavar='NAME=PATH',
        help='other runs: a show-dir, a JSON file that hmsa test '
        'wrote, scalars.json of a training, or {"mIoU": percent, "IoU": '
        '{class: percent}}',
    )
    run.add_argument(
        '-o', '--out', type=Path, help=f'default: SHOW_DIR/{PAGE}'
    )
    run.add_argument(
        '--title', help='of the page; default: name of the config'
    )
    run.add_argument(
        '--name', help='of the run, in comparisons; default: this run'
    )
    labels = parser.add_argument_group('of auto-labels')
    labels.add_argument('--config', help='whose data sets the next three mean')
    labels.add_argument('--previous', type=Path, help=PREVIOUS)
    for name, text in LOADERS.items():
        labels.add_argument(
            f'--{name}', metavar=f'{PREFIX}LOADER', type=_loader, help=text
        )
    for name, (least, most, default, text) in NUMBERS.items():
        group = run if name in ('max-images', 'max-mb', 'width') else labels
        group.add_argument(
            f'--{name}',
            type=_number(least, most),
            metavar='N',
            help=f'{text}; default: {default}',
        )
    args = parser.parse_args(argv)
    of_labels = is_label_set(args.folder)
    if not of_labels and not (args.folder / FOLDER).is_dir():
        parser.error(
            f'{args.folder}: expected {FOLDER} in it, which hmsa test '
            '--show-dir writes with ScaleMapsVisualizer and '
            'ScaleMapsVisualizationHook in the config, or '
            f'{META_FILE}, which hmsa label writes'
        )
    other = run if of_labels else labels
    for action in other._group_actions:
        if hasattr(args, action.dest):
            what = 'auto-labels' if of_labels else 'a test run'
            parser.error(
                f'{action.option_strings[-1]}: {args.folder} is a folder of '
                f'{what}; expected options of it alone'
            )
    names = [getattr(args, 'name', 'this run')]
    names += [o.partition('=')[0] for o in getattr(args, 'compare', ())]
    for name in names:
        if names.count(name) > 1:
            parser.error(f'--compare: two runs have the name {name!r}')
    wanted = [name for name in LOADERS if hasattr(args, name)]
    if wanted and not hasattr(args, 'config'):
        parser.error(f'--{wanted[0]}: expected --config beside it')
    args.of_labels = of_labels
    return args


def _number(least: float, most: float | None) -> Any:
    """Read a number of the type of the first limit."""

    def read(text: str) -> float:
        value = type(least)(text)
        if not least <= value <= (most or float('inf')):
            up_to = f'to {most:g}' if most else 'or more'
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
            told, notes = report_run(
                folder, out, others, max_bytes=most * 1e6, **args
            )
            for note in notes:
                print(f'warning: {note}', file=sys.stderr)
            told = f', {told}'
    # RuntimeError: a process that reads was killed.
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{out} was not written', file=sys.stderr)
        return 1
    print(f'{out}: {os.path.getsize(out) / 1e6:.1f} MB{told}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
