"""Compare ways to fuse scales: Table 1 of the paper, in one run.

Trains a single scale, attention to scale and hierarchical attention with
mmseg's train.py, tests them and average pooling with its test.py, measures
what a training step costs, and writes a table as Markdown and JSON, and a
plot. A run that was interrupted goes on where it was.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

# Before torch. Threads that wait by spinning slow each other down several
# times as soon as another program wants one of the cores.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# The benchmarks' stopwatch.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from demo.running import lock_folder
from fusion.comparison import Comparison
from fusion.presets import PRESETS
from fusion.report import markdown_table, write_report


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--preset', choices=PRESETS, default='demo')
    parser.add_argument(
        '--work-dir', type=Path, default='compare_out', help='of the runs'
    )
    parser.add_argument(
        '--out', type=Path, help='of the table; default: the work dir'
    )
    parser.add_argument(
        '--measure-only',
        action='store_true',
        help='the costs of a step alone; needs no data',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--iters', type=int, help="default: the config's")
    parser.add_argument(
        '--data-root', type=Path, help='of the mapillary preset'
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=3,
        default=(240, 60, 60),
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='to generate, in the demo preset',
    )
    parser.add_argument(
        '--gpus', type=int, default=0, help='to train with; 0: on the CPU'
    )
    parser.add_argument(
        '--threads', type=int, default=len(os.sched_getaffinity(0))
    )
    parser.add_argument(
        '--rounds', type=int, default=10, help='of the timing of a step'
    )
    parser.add_argument(
        '--measure-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help="image size of the step that is timed; default: the config's "
        'crop with a GPU, else a size for two cores',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='discard the results of runs with other settings',
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Compare."""
    args = parse_args(argv)
    args.work_dir = args.work_dir.absolute()
    # A plain kill, too, ends the program that is running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    lock = lock_folder(args.work_dir)
    results = Comparison(args, lock).run()
    files = write_report(args.out or args.work_dir, results)
    minutes = sum(results['seconds'].values()) / 60
    print(f'\n{minutes:.1f} minutes\n\n{markdown_table(results)}\n')
    print(*files, sep='\n')


if __name__ == '__main__':
    main()
