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
from driver.jobs import lock_folder
from zoo_benchmark.jobs import Findings, plan, versions
from zoo_benchmark.models import Model
from zoo_benchmark.options import parse_args
from zoo_benchmark.report import write_report
from zoo_benchmark.results import collect, errors_of
from zoo_benchmark.supervision import Limits, run_jobs


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
    for path in (out / 'cpu.json', out / 'gpu.json'):
        if not path.is_file():
            continue
        for row in json.loads(path.read_text())['models']:
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
    deadline = None
    if args.minutes is not None:
        deadline = time.monotonic() + 60 * args.minutes
    limits = Limits(
        args.timeout, args.memory_gb, args.threads, args.device, deadline
    )
    for model, of_model in left.items():
        counts = next(
            (j for j in jobs[model] if j['part'] == 'inference counts'), None
        )
        if of_model:
            run_jobs(of_model, counts, findings, limits, say)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    args = parse_args(__doc__, argv)
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
    for row in results['models']:
        for title, error in errors_of(row):
            progress(f'failed: {row["name"]}: {title}: {error}')
    print(*files, sep='\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
