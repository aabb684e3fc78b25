"""From a teacher to a better student, on generated street scenes, on the CPU.

A few scenes have fine labels, many have coarse polygons. Trains a teacher,
labels the many with tools/autolabel.py, trains students on its labels, lets
the better one label again, and compares all of them on a held-out split with
a model that saw the fine labels alone. Writes a table and an HTML page. A run
that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autolabel_demo import recipes
from autolabel_demo.jobs import JobPool
from autolabel_demo.seed_run import SeedRun
from autolabel_demo.summary import summarize, terminal_table
from demo import street_scenes
from demo.running import lock_folder

TOOLS = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default='autolabel_demo_out')
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0, 1],
        help='of the scenes and of the training; one full loop for each',
    )
    parser.add_argument(
        '--iters',
        type=int,
        nargs=2,
        default=(600, 300),
        metavar=('START', 'OTHERS'),
        help='of the training that all others start from, and of each of them',
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=4,
        default=(10, 40, 60, 160),
        metavar=('FINE', 'VAL', 'TEST', 'UNLABELLED'),
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='programs that run side by side. Default: one for each core',
    )
    parser.add_argument(
        '--threads', type=int, default=1, help='of each of them. Default: 1'
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='discard the results of runs with other settings',
    )
    return parser.parse_args(argv)


def recipe_digest() -> str:
    """Digest of the files that decide what the results are."""
    bases = recipes.CONFIGS / '_base_'
    paths = {recipe.path for recipe in recipes.RECIPES}
    paths |= {
        bases / 'datasets' / 'street_scenes_autolabel.py',
        bases / 'schedules' / 'schedule_demo.py',
        bases / 'default_runtime.py',
        Path(street_scenes.__file__),
        TOOLS / 'autolabel_demo' / 'coarse.py',
        TOOLS / 'autolabel_demo' / 'scenes.py',
        TOOLS / 'autolabel_demo' / 'seed_run.py',
    }
    texts = [path.read_bytes() for path in sorted(paths)]
    return hashlib.sha256(b''.join(texts)).hexdigest()[:12]


def main(argv: list[str] | None = None) -> None:
    """Run the demo."""
    args = parse_args(argv)
    args.out = args.out.absolute()
    # A plain kill, too, ends the programs that are running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    lock = lock_folder(args.out)
    digest = recipe_digest()
    runs = {seed: SeedRun(args, seed, digest) for seed in args.seeds}
    pool = JobPool(
        [job for run in runs.values() for job in run.jobs()],
        slots=args.jobs,
        threads=args.threads,
        lock=lock,
        note=lambda key, *rest: _run_of(runs, key).note(key, *rest),
        is_done=lambda key: _run_of(runs, key).is_done(key),
    )
    pool.run()
    # Not before: it takes seconds to import.
    from autolabel_demo.page import write_page

    results = summarize(args, runs)
    print('\n' + terminal_table(results))
    for path in write_page(args, runs, results):
        print(path)


def _run_of(runs: dict[int, SeedRun], key: str) -> SeedRun:
    return runs[int(key.split(' ')[1])]


if __name__ == '__main__':
    main()
