"""Benchmarks of this project, one suite after the other.

    python tools/dev/benchmark.py table --out docs/benchmarks

Each suite first checks that what it compares gives the same numbers, and
stops if not; then it counts and times, and writes ``<suite>.json`` and
``<suite>.md``. It runs on the CPU and, where there is one, on a GPU. In the
end it prints the table of all figures that have a target, of this run and of
earlier ones with the same ``--out``. ``table`` stands for the suites of that
table. A run that was broken off goes on with the first suite that is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

# Before torch. Threads that wait by spinning slow each other down several
# times as soon as another program wants one of the cores; to wake one that
# sleeps takes longer than many an operator. So they spin for some 20 us.
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

import torch
from benchmarks.options import DTYPES, Options, progress
from benchmarks.report import plot, table

# Name -> module. A suite has TITLE, `run(options)`, which checks, measures
# and returns a dict with the machine's description in `machine`,
# `markdown(results)`, and, if it has figures with a target,
# `figures(results)`.
TABLE = {
    'flops': 'benchmarks.flops',
    'memory': 'benchmarks.memory',
    'fusion': 'benchmarks.fusion',
    'rmi': 'benchmarks.rmi',
    'loss': 'benchmarks.loss',
    'inference': 'benchmarks.inference',
    'train': 'benchmarks.train',
    'tta': 'benchmarks.tta',
}
SUITES = {
    **TABLE,
    'attention_only': 'benchmarks.attention_only',
    'checkpointing': 'benchmarks.checkpointing',
    'mapillary': 'benchmarks.mapillary',
    'recipes': 'benchmarks.recipes',
}
UNFINISHED = 'unfinished.json'
OUT = Path('docs/benchmarks')


def describe(machine: dict[str, Any]) -> str:
    """One line about the machine, from ``measure.machine``."""
    parts = [machine['cpu'], f'{machine["cores"]} cores']
    if machine['gpu']:
        parts.append(machine['gpu'])
    parts.append(f'torch {machine["torch"]}')
    if machine.get('date'):
        parts.append(machine['date'])
    if machine['load'] is not None:
        parts.append(f'load average {machine["load"]:.1f} at the end')
    return ', '.join(parts)


def page(
    name: str, suite: ModuleType, results: dict[str, Any], command: str
) -> str:
    """Markdown page of one suite."""
    return (
        f'# {suite.TITLE}\n\n```shell\n{command}\n```\n\n'
        f'{describe(results["machine"])}; all figures: '
        f'[{name}.json]({name}.json).\n\n{suite.markdown(results).rstrip()}\n'
    )


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f'{path.name}.part')
    part.write_text(text)
    part.replace(path)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('suites', nargs='+', choices=['table', *SUITES])
    parser.add_argument(
        '--out', type=Path, help=f'default: {OUT}, which is for full sizes'
    )
    parser.add_argument(
        '--size',
        choices=('small', 'full'),
        default='full',
        help='small: to see that it runs, in little time',
    )
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument(
        '--threads', type=int, help="threads of torch; default: torch's"
    )
    parser.add_argument(
        '--authors',
        type=Path,
        help='a checkout of NVIDIA/semantic-segmentation, whose network then '
        'takes part beside its transcription',
    )
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=DTYPES,
        default=['float32'],
        help='types that inference runs in',
    )
    parser.add_argument(
        '--fresh',
        action='store_true',
        help='measure again what a run that was broken off has measured',
    )
    args = parser.parse_args()
    if args.out is None and args.size != 'full':
        parser.error(
            f'--size {args.size} needs --out: {OUT} is for full sizes'
        )
    args.out = args.out or OUT
    for name in ('rounds', 'threads'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name}: expected 1 or more, got {value}')
    if args.authors is not None:
        from oracles.authors import check_checkout

        try:
            check_checkout(args.authors)
        except ValueError as error:
            parser.error(str(error))
    return args


def command_line(args: argparse.Namespace) -> str:
    """The settings of a run, as they are written down with its results."""
    options = f'--size {args.size} --rounds {args.rounds}'
    if args.threads:
        options += f' --threads {args.threads}'
    if args.dtypes != ['float32']:
        options += f' --dtypes {" ".join(args.dtypes)}'
    if args.authors:
        options += ' --authors semantic-segmentation'
    return options


def all_figures(out: Path) -> list:
    """Figures of all suites whose results lie in a folder."""
    figures = []
    for name, module in SUITES.items():
        path = out / f'{name}.json'
        suite = importlib.import_module(module) if path.is_file() else None
        if hasattr(suite, 'figures'):
            figures += suite.figures(json.loads(path.read_text()))
    return figures


def main() -> None:
    """Run the suites that the command line names."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    names = list(
        dict.fromkeys(
            one
            for name in args.suites
            for one in (TABLE if name == 'table' else [name])
        )
    )
    options = Options(args.size, args.rounds, args.authors, tuple(args.dtypes))
    settings = command_line(args)
    state_file = args.out / UNFINISHED
    state = dict(suites=names, settings=settings, done=[])
    if state_file.is_file() and not args.fresh:
        before = json.loads(state_file.read_text())
        if {**before, 'done': []} == state:
            state = before
    for name in names:
        if name in state['done']:
            progress(f'{name}: measured before the run was broken off')
            continue
        suite = importlib.import_module(SUITES[name])
        results = suite.run(options)
        command = f'python tools/dev/benchmark.py {name} {settings}'
        text = page(name, suite, results, command)
        results = dict(command=command, **results)
        write(args.out / f'{name}.json', json.dumps(results, indent=2) + '\n')
        write(args.out / f'{name}.md', text)
        state['done'].append(name)
        write(state_file, json.dumps(state) + '\n')
        if args.suites != ['table']:
            print(text)
    state_file.unlink()
    figures = all_figures(args.out)
    if figures:
        summary = table(figures)
        write(args.out / 'table.md', f'# What was reached\n\n{summary}\n')
        plot(figures, args.out / 'table.png')
        print(summary)


if __name__ == '__main__':
    main()
