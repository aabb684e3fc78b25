"""Benchmarks of this project, one suite after the other.

    python tools/benchmark.py rmi --out docs/benchmarks

Each suite first checks that what it compares gives the same numbers, and
stops if not; then it counts and times, and writes ``<suite>.json`` and
``<suite>.md``. It runs on the CPU and, where there is one, on a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

# Name -> module. A suite has TITLE, `run(size, rounds)`, which checks,
# measures and returns a dict with the machine's description in `machine`,
# and `markdown(results)`.
SUITES = {
    'attention_only': 'benchmarking.attention_only',
    'checkpointing': 'benchmarking.checkpointing',
    'rmi': 'benchmarking.rmi',
}


def describe(machine: dict[str, Any]) -> str:
    """One line about the machine, from ``measure.machine``."""
    parts = [machine['cpu'], f'{machine["cores"]} cores']
    if machine['gpu']:
        parts.append(machine['gpu'])
    parts.append(f'torch {machine["torch"]}')
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
    parser.add_argument('suites', nargs='+', choices=sorted(SUITES))
    parser.add_argument('--out', type=Path, default=Path('docs/benchmarks'))
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
    args = parser.parse_args()
    for name in ('rounds', 'threads'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name}: expected 1 or more, got {value}')
    return args


def main() -> None:
    """Run the suites that the command line names."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    options = f'--size {args.size} --rounds {args.rounds}'
    if args.threads:
        options += f' --threads {args.threads}'
    for name in args.suites:
        suite = importlib.import_module(SUITES[name])
        results = suite.run(args.size, args.rounds)
        command = f'python tools/benchmark.py {name} {options}'
        text = page(name, suite, results, command)
        results = dict(command=command, **results)
        write(args.out / f'{name}.json', json.dumps(results, indent=2) + '\n')
        write(args.out / f'{name}.md', text)
        print(text)


if __name__ == '__main__':
    main()
