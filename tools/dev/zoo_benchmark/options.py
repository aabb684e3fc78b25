"""The command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from .models import DEFAULT, DEFAULT_MODES, MODES, find_model

OUT = Path('docs/zoo')
_DOCS = Path(__file__).resolve().parents[3] / 'docs'
PARTS = ('counts', 'training', 'inference', 'mIoU')
# Seconds and rounds of one function that is timed, and TFLOP at most.
_CLOCK = {'cpu': (10.0, 5, 1.0), 'cuda': (3.0, 200, None)}


def parse_args(
    description: str, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the command line.

    Args:
        description (str): Of the program.
        argv (Sequence[str], optional): Defaults to that of the process.

    Returns:
        argparse.Namespace: With ``models``, and with what depends on the
        device filled in.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'names',
        nargs='*',
        help='configs: files, or names in configs/ or in the installed zoo; '
        'by default some of both',
    )
    parser.add_argument(
        '--out', type=Path, help=f'default: {OUT}, which is for full sizes'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('zoo_benchmark_out'),
        help='where what is measured is kept; default: %(default)s',
    )
    parser.add_argument(
        '--device', choices=('cpu', 'cuda'), help='default: cuda if there'
    )
    parser.add_argument(
        '--size',
        choices=('small', 'full'),
        default='full',
        help='small: to see that it runs, in little time',
    )
    parser.add_argument(
        '--parts', nargs='+', choices=PARTS, default=list(PARTS)
    )
    parser.add_argument(
        '--modes', nargs='+', choices=list(MODES), default=list(DEFAULT_MODES)
    )
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=('float32', 'amp'),
        help='default: float32, and amp on a GPU',
    )
    parser.add_argument(
        '--seconds', type=float, help='for one timing; default: 10, GPU: 3'
    )
    parser.add_argument(
        '--rounds',
        type=int,
        help='of one timing, at most; default: 5, GPU: 200',
    )
    parser.add_argument(
        '--max-tflop',
        type=float,
        help='time no test that takes more; default: 1, GPU: no limit',
    )
    parser.add_argument(
        '--threads', type=int, help="threads of torch; default: torch's"
    )
    parser.add_argument(
        '--timeout',
        type=float,
        default=1800,
        help='seconds of one measurement; default: %(default)s',
    )
    parser.add_argument(
        '--minutes',
        type=float,
        help='stop after so long, and write what is there',
    )
    parser.add_argument(
        '--memory-gb',
        type=float,
        help='1e9 bytes that a process may hold; default, on the CPU: nine '
        'tenths of the machine',
    )
    parser.add_argument(
        '--data-root', type=Path, help='of Cityscapes, to evaluate mIoU'
    )
    parser.add_argument(
        '--weights',
        type=Path,
        help="folder of checkpoints, named <config>*.pth or as the zoo's",
    )
    parser.add_argument(
        '--fresh',
        action='store_true',
        help='measure again what has been measured',
    )
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Fill in what depends on other arguments, and refuse nonsense."""
    has_gpu = torch.cuda.is_available()
    if args.device == 'cuda' and not has_gpu:
        parser.error('--device cuda: torch finds no GPU')
    args.device = args.device or ('cuda' if has_gpu else 'cpu')
    if args.size != 'full' and args.out is None:
        parser.error(
            f'--size {args.size} needs --out: {OUT} is for full sizes'
        )
    if args.size != 'full' and _DOCS in (args.out.resolve() / '_').parents:
        parser.error(f'--size {args.size}: {args.out} is for full sizes')
    args.out = args.out or OUT
    defaults = dict(
        zip(('seconds', 'rounds', 'max_tflop'), _CLOCK[args.device])
    )
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in (
        'seconds',
        'rounds',
        'max_tflop',
        'threads',
        'timeout',
        'memory_gb',
        'minutes',
    ):
        value = getattr(args, name)
        if value is not None and value <= 0:
            option = name.replace('_', '-')
            parser.error(f'--{option}: expected more than 0, got {value}')
    on_gpu = args.device == 'cuda'
    args.dtypes = args.dtypes or (
        ['float32', 'amp'] if on_gpu else ['float32']
    )
    if 'amp' in args.dtypes and not on_gpu:
        parser.error('--dtypes amp needs --device cuda')
    if args.memory_gb is None and not on_gpu:
        args.memory_gb = _nine_tenths()
    for name in ('data_root', 'weights'):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            option = name.replace('_', '-')
            parser.error(f'--{option} {folder}: there is no such folder')
    try:
        args.models = [find_model(name) for name in args.names or DEFAULT]
    except FileNotFoundError as error:
        parser.error(str(error))
    names = [model.name for model in args.models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        parser.error(f'two configs of one name: {", ".join(twice)}')


def _nine_tenths() -> float | None:
    """0.9 of the machine's memory in 1e9 bytes, where the system says it."""
    try:
        pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return None
    return 0.9 * pages / 1e9
