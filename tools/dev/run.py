"""Run an experiment: its trainings, its tests, and the report on them.

    python tools/dev/run.py demo          one scale against several
    python tools/dev/run.py autolabel     from a teacher to a better student
    python tools/dev/run.py compare       ways to fuse scales: Table 1
    python tools/dev/run.py camvid        ways to fuse scales on photographs

What is done is kept in --work-dir and not done again: stopped or killed at any
point, the same command goes on.
"""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from driver.jobs import Driver, lock_folder

#: Name: package with `experiment.py` (`add_arguments`, `plan`) and `report.py`
#: (`report`).
EXPERIMENTS = dict(
    demo='demo',
    autolabel='autolabel_demo',
    compare='fusion',
    camvid='camvid',
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest='experiment', required=True)
    for name, package in EXPERIMENTS.items():
        module = importlib.import_module(f'{package}.experiment')
        sub = subparsers.add_parser(name, description=module.__doc__)
        add = sub.add_argument
        add('--work-dir', type=Path, help='of the runs')
        add('--out', type=Path, help='of the report; default: the work dir')
        text = 'of data and training; one full run for each'
        seeds = ('--seeds', '--seed')
        add(*seeds, type=int, nargs='+', metavar='SEED', help=text)
        text = 'programs that run side by side'
        cores = len(os.sched_getaffinity(0))
        add('--parallel', type=int, default=cores, help=text)
        add('--threads', type=int, default=1, help='of each of them')
        sub.set_defaults(gpus=0)
        module.add_arguments(sub)
    args = parser.parse_args(argv)
    # The programs run in folders of their own.
    args.work_dir = args.work_dir.absolute()
    args.out = (args.out or args.work_dir).absolute()
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, and write the report."""
    args = parse_args(argv)
    # A plain kill, too, ends the programs that are running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    lock = lock_folder(args.work_dir)
    package = EXPERIMENTS[args.experiment]
    runs = importlib.import_module(f'{package}.experiment').plan(args)
    Driver(runs, lock, args.parallel, args.threads, args.gpus > 0).run()
    args.out.mkdir(parents=True, exist_ok=True)
    # Not before: it takes seconds to import.
    report = importlib.import_module(f'{package}.report').report
    text, files = report(args, runs)
    print(f'\n{text}\n', *files, sep='\n')


if __name__ == '__main__':
    main()
