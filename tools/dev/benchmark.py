"""Benchmarks of this project, one suite after the other.

    python tools/dev/benchmark.py table
    python tools/dev/benchmark.py zoo --models my_config.py

Each suite first checks that what it compares gives the same numbers, and
stops if not; then it counts and times. Page and figures are written after
each case, as ``<suite>.md`` and ``data/<suite>.json``; a run that was broken
off goes on with the first case that is missing. In the end the table of all
figures that have a limit is printed, of this run and of earlier ones with the
same ``--out``. ``table`` stands for the suites that have such figures.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before torch. Threads that wait by spinning slow each other down several
# times as soon as another program wants one of the cores; to wake one that
# sleeps takes longer than many an operator. So they spin for some 20 us.
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

import torch
from benchmarks import cases, page
from benchmarks.cases import DTYPES, Options, progress
from benchmarks.measure import machine

from hmsa_mmseg.utils import write_json

# A suite has TITLE, NOTE (what its page says about the figures), LIMITS,
# `cases(options)`, title -> function that builds a case, and, if each case
# is to run in a process of its own, IS_APART.
TABLE = ['counts', 'rmi', 'loss', 'inference', 'train', 'tta']
SUITES = [*TABLE, 'switches', 'zoo']
OUT = Path('docs/benchmarks')
UNFINISHED = 'unfinished.json'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('suites', nargs='+', choices=['table', *SUITES])
    add(
        '--cases',
        default='',
        metavar='PATTERN',
        help='measure no cases but those whose titles have it, and keep what '
        'an earlier run with a pattern has measured of others',
    )
    add('--out', type=Path, help=f'default: {OUT}, for full sizes alone')
    add(
        '--size',
        choices=('small', 'full'),
        default='full',
        help='small: to see that it runs, in little time',
    )
    add('--rounds', type=int, default=7)
    add(
        '--seconds',
        type=float,
        default=300,
        help='after half of which a case begins no further way, and after '
        'which nothing but the first round; default 300',
    )
    add('--threads', type=int, help="threads of torch; default: torch's")
    add(
        '--authors',
        type=Path,
        help='a checkout of NVIDIA/semantic-segmentation, whose network then '
        'takes part beside its transcription',
    )
    add(
        '--dtypes',
        nargs='+',
        choices=DTYPES,
        default=['float32'],
        help='types that inference, and models of zoo, run in',
    )
    add(
        '--models',
        nargs='+',
        default=[],
        help='of zoo: configs, or names in configs/ or in the installed zoo',
    )
    add(
        '--max-tflop',
        type=float,
        default=1.0,
        help='of zoo: on a CPU time no test that takes more; default: 1',
    )
    add('--data-root', type=Path, help='of zoo: Cityscapes, for mIoU')
    add(
        '--weights',
        type=Path,
        help="of zoo: checkpoints, named <config>*.pth or as the zoo's",
    )
    add('--fresh', action='store_true', help='measure all again')
    args = parser.parse_args(argv)
    if args.out is None and args.size != 'full':
        parser.error(
            f'--size {args.size} needs --out: {OUT} is for full sizes'
        )
    args.out = args.out or OUT
    for name in ('rounds', 'threads', 'seconds', 'max_tflop'):
        value = getattr(args, name)
        if value is not None and value <= 0:
            option = name.replace('_', '-')
            parser.error(f'--{option}: expected more than 0, got {value}')
    for name in ('data_root', 'weights'):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            option = name.replace('_', '-')
            parser.error(f'--{option} {folder}: there is no such folder')
    if args.authors is not None:
        from oracles.authors import check_checkout

        try:
            check_checkout(args.authors)
        except ValueError as error:
            parser.error(str(error))
    return args


def command_line(args: argparse.Namespace, name: str) -> str:
    """The command of one suite, as it is written down with its results."""
    words = ['python', 'tools/dev/benchmark.py', name]
    words += ['--size', args.size, '--rounds', str(args.rounds)]
    if args.threads:
        words += ['--threads', str(args.threads)]
    if args.dtypes != ['float32']:
        words += ['--dtypes', *args.dtypes]
    if args.authors:
        words += ['--authors', 'semantic-segmentation']
    if name == 'zoo':
        words += ['--models', *args.models] if args.models else []
        if args.max_tflop != 1.0:
            words += ['--max-tflop', f'{args.max_tflop:g}']
    return shlex.join(words)


def suite_of(name: str) -> Any:
    """Import a suite; each brings much that others do not need."""
    return importlib.import_module(f'benchmarks.{name}')


def measure(
    name: str, title: str, options: Options, threads: int | None = None
) -> list[dict[str, Any]]:
    """Build one case of a suite and measure it."""
    if threads:
        torch.set_num_threads(threads)
    return cases.rows_of(suite_of(name).cases(options)[title](), options)


def measure_apart(*args: Any) -> list[dict[str, Any]]:
    """Do the same in a process of its own; a failure becomes a row."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        try:
            return pool.submit(measure, *args).result()
        except BrokenProcessPool:
            error = 'the process died, as it does when memory runs out'
        except Exception as failure:
            error = cases.error_text(failure)
    return [dict(way='', error=error)]


def run_suite(
    name: str, args: argparse.Namespace, options: Options, state: dict
) -> str:
    """Measure what is missing of a suite, and write it; return the page."""
    suite = suite_of(name)
    command, text = command_line(args, name), ''
    done = state.setdefault(command, {})
    titles = list(suite.cases(options))
    for title in titles:
        progress(f'{name}: {title}' + (', measured' * (title in done)))
        if title not in done:
            if not re.search(args.cases, title):
                continue
            is_apart = getattr(suite, 'IS_APART', False)
            run = measure_apart if is_apart else measure
            done[title] = run(name, title, options, args.threads)
            write_json(args.out / UNFINISHED, state)
        rows = [
            dict(case=case, **row)
            for case in titles
            for row in done.get(case, ())
        ]
        results = dict(command=command, machine=machine(), rows=rows)
        text = page.write_suite(args.out, name, suite, results)
    return text


def all_figures(out: Path) -> list[page.Figure]:
    """What has a limit, with what the results in a folder say of it.

    The limits are those of a GPU if any of the results are.
    """
    paths = {name: out / 'data' / f'{name}.json' for name in SUITES}
    results = {
        name: json.loads(path.read_text())
        for name, path in paths.items()
        if path.is_file()
    }
    on_gpu = any(of['machine']['gpu'] for of in results.values())
    found = []
    for name in SUITES:
        of = results.get(name, dict(rows=[], machine={}))
        for limit in suite_of(name).LIMITS:
            if limit.on_gpu == on_gpu:
                date = of['machine'].get('date', '')
                found += limit.figures(of['rows'], date)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the suites that the command line names."""
    args = parse_args(argv)
    given = {key: getattr(args, key) for key in Options._fields}
    given.update(dtypes=tuple(args.dtypes), models=tuple(args.models))
    options = Options(**given)
    state_file = args.out / UNFINISHED
    state = {}
    if state_file.is_file() and not args.fresh:
        state = json.loads(state_file.read_text())
    names = [
        one for name in args.suites for one in ([name], TABLE)[name == 'table']
    ]
    # What has been imported is there to stay.
    gc.freeze()
    for name in dict.fromkeys(names):
        print(run_suite(name, args, options, state))
    if not args.cases:
        state_file.unlink(missing_ok=True)
    figures = all_figures(args.out)
    summary = page.figures_table(figures)
    text = f'# What was reached\n\n{summary}\n'
    (args.out / 'table.md').write_text(text)
    print(summary)


if __name__ == '__main__':
    main(sys.argv[1:])
