"""Measure models of mmseg's zoo and of this package under the zoo's rules.

    python tools/benchmark_zoo.py
    python tools/benchmark_zoo.py my_config.py --out my_benchmark

Of every model: parameters, FLOPs, time and peak memory of a training step and
of the test of one image, at one scale, at the zoo's six scales with flips and
hierarchically. mIoU is evaluated where `--data-root` and the weights are on
disk, and quoted from the installed zoo where they are not; nothing is
downloaded. It writes `<device>.md`, `.json` and `.png`.

Each model runs in a process of its own. One that fails is a row with its
error. What is measured is kept in `--work-dir`: a run that was broken off
goes on, and one that is repeated tries again what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before torch, see tools/benchmark.py.
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

import torch
from benchmarking.measure import machine
from benchmarking.options import progress
from demo.running import lock_folder
from zoo_benchmark.jobs import Findings, plan, versions
from zoo_benchmark.models import (
    DEFAULT,
    DEFAULT_MODES,
    MODES,
    Model,
    find_model,
)
from zoo_benchmark.report import collect, write_report
from zoo_benchmark.supervision import Limits, run_jobs

OUT = Path('docs/zoo')
_DOCS = Path(__file__).resolve().parents[1] / 'docs'
PARTS = ('counts', 'training', 'inference', 'mIoU')
# Seconds and rounds of one function that is timed, and TFLOP at most.
_CLOCK = {'cpu': (10.0, 5, 1.0), 'cuda': (3.0, 200, None)}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
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


class Progress:
    """Says which job begins, and how long all may take.

    Args:
        total (int): Jobs that are left to do.
    """

    def __init__(self, total: int) -> None:
        self._total, self._begun = total, 0
        self._start = time.monotonic()

    def __call__(self, job: dict[str, Any]) -> None:
        """Say that a job begins."""
        left = ''
        if self._begun:
            spent = time.monotonic() - self._start
            seconds = spent / self._begun * (self._total - self._begun)
            left = f', about {seconds / 60:.0f} min left'
        self._begun = min(self._begun + 1, self._total)
        progress(
            f'[{self._begun}/{self._total}] {job["model"]}: {job["title"]}'
            f'{left}'
        )


def take_over_counts(
    out: Path, jobs: Sequence[dict[str, Any]], findings: Findings
) -> None:
    """Keep what earlier pages of a folder counted: it is of any machine."""
    wanted = {
        job['key']: job
        for job in jobs
        if job['part'].endswith('counts') and not findings.is_measured(job)
    }
    for path in sorted(out.glob('*.json')):
        for row in json.loads(path.read_text()).get('models', []):
            for found in row['findings']:
                job = wanted.pop(found['key'], None)
                if job is not None and 'measured' in found:
                    findings.write(
                        job,
                        **{
                            key: value
                            for key, value in found.items()
                            if key not in ('key', 'model', 'part', 'title')
                        },
                    )


def measure_all(
    args: argparse.Namespace, jobs: dict[Model, list], findings: Findings
) -> None:
    """Do all jobs that are not done."""
    every = [job for of_model in jobs.values() for job in of_model]
    if args.fresh:
        for job in every:
            findings.forget(job)
    else:
        take_over_counts(args.out, every, findings)
    left = {
        model: [job for job in of_model if not findings.is_measured(job)]
        for model, of_model in jobs.items()
    }
    total = sum(map(len, left.values()))
    progress(f'{len(every) - total} of {len(every)} measurements are there')
    say = Progress(total)
    limits = Limits(args.timeout, args.memory_gb, args.threads, args.device)
    for model, of_model in left.items():
        counts = next(
            (j for j in jobs[model] if j['part'] == 'inference counts'), None
        )
        if of_model:
            run_jobs(of_model, counts, findings, limits, say)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    args = parse_args(argv)
    # A plain kill, too, ends the process that measures.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    if args.threads:
        torch.set_num_threads(args.threads)
    lock = lock_folder(args.work_dir)
    findings = Findings(args.work_dir / 'findings')
    here = machine()
    jobs = {model: plan(model, args, here) for model in args.models}
    try:
        measure_all(args, jobs, findings)
    except KeyboardInterrupt:
        progress(
            f'stopped; what was measured is in {args.work_dir}, and the same '
            'command goes on from there'
        )
        return 130
    finally:
        lock.close()
    words = sys.argv[1:] if argv is None else argv
    results = dict(
        command=shlex.join(['python', 'tools/benchmark_zoo.py', *words]),
        device=args.device,
        size=args.size,
        machine=machine(),
        versions=versions(),
        threads=torch.get_num_threads(),
        max_tflop=args.max_tflop,
        models=collect(jobs, findings),
    )
    files = write_report(args.out, results)
    failed = [
        f'{row["name"]}: {found["title"]}: {found["error"]}'
        for row in results['models']
        for found in row['findings']
        if 'error' in found
    ]
    for line in failed:
        progress(f'failed: {line}')
    print(*files, sep='\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
