"""Report how far the auto-labels of a folder can be trusted.

    python tools/autolabel_report.py OUT --config CONFIG
        --check config:val_dataloader --prior config:train_dataloader

OUT is what tools/autolabel.py wrote. OUT/report.html opens from disk and holds
all it needs; OUT/report.json has the same numbers. docs/autolabel_report.md
says how to read it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import hmsa_mmseg  # noqa: F401  (first: makes the stack importable)

# isort: split

from autolabel_reporting.run import ReportOptions, make_report

from hmsa_mmseg.autolabel.config_datasets import PREFIX


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = ReportOptions()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='folder of the auto-labels'
    )
    parser.add_argument(
        '--config', help='whose data sets the next three options mean'
    )
    for name, text in (
        (
            'check',
            'data set with true labels; OUT/check holds the auto-labels of '
            'its images. Without it no threshold is suggested',
        ),
        ('coarse', 'coarse labels of the same images'),
        ('prior', 'true labels whose shares of classes are compared with'),
    ):
        parser.add_argument(
            f'--{name}', metavar=f'{PREFIX}LOADER', type=_loader, help=text
        )
    parser.add_argument(
        '--previous',
        type=Path,
        metavar='DIR',
        help='labels of the round before; default: those that OUT names',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=defaults.threshold,
        metavar='T',
        help='labels below this confidence are not kept; default: '
        "%(default)g, as in the authors' code",
    )
    parser.add_argument(
        '--target-precision',
        type=float,
        default=defaults.target_precision,
        metavar='P',
        help='of the pixels that the suggested threshold lets in; default: '
        '%(default)g',
    )
    parser.add_argument(
        '--low-coverage',
        type=float,
        default=defaults.low_coverage,
        metavar='SHARE',
        help='images that keep less are listed; default: %(default)g',
    )
    parser.add_argument(
        '--worst',
        type=int,
        default=defaults.worst,
        metavar='N',
        help='images that are shown; default: %(default)s',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar='N',
        help='processes that read; default: one for each core, 8 at most; 0: '
        'none beside this one',
    )
    args = parser.parse_args(argv)
    for name, least, most in (
        *(('threshold', 0, 1), ('low_coverage', 0, 1)),
        *(('worst', 0, 1000), ('workers', 0, 1000)),
        ('target_precision', 1e-6, 1),
    ):
        value = getattr(args, name)
        if not least <= value <= most:
            option = name.replace('_', '-')
            parser.error(
                f'--{option}: expected {least:g} to {most:g}, got {value}'
            )
    wanted = [n for n in ('check', 'coarse', 'prior') if getattr(args, n)]
    if wanted and not args.config:
        parser.error(f'--{wanted[0]}: expected --config beside it')
    return args


def _loader(text: str) -> str:
    if not text.startswith(PREFIX):
        raise argparse.ArgumentTypeError(
            f'expected {PREFIX}<loader>, such as {PREFIX}val_dataloader, got '
            f'{text!r}'
        )
    return text


def main(argv: list[str] | None = None) -> int:
    """Write the report; 1 on an error."""
    args = vars(parse_args(argv))
    out = args.pop('out')
    options = ReportOptions(labelled=args.pop('check'), **args)
    try:
        path = make_report(out, options)
    # RuntimeError: a process that reads was killed.
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{out}: no report was written', file=sys.stderr)
        return 1
    print(f'{path}: {os.path.getsize(path) / 1e6:.1f} MB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
