"""Turn a config of mmseg's model zoo into a multi-scale one, in one step.

    hmsa from-zoo ocrnet_hr48_4xb2-160k_cityscapes-512x1024

writes a config that stands on its own: data, schedule, losses and all else
are the zoo's. With a checkpoint of the zoo's model, training starts from its
weights, after each of them was found in the new model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)
from hmsa_mmseg.zoo.adapting import ZooSettings, write_adapted

KINDS = {
    'attention-only': (
        '--attention-only',
        'train the attention branch of a trained model alone',
    ),
    'finetune': (
        '--finetune',
        'train all of a trained model on, at the scales of the test',
    ),
    'single-scale': (
        '--single-scale',
        "write the zoo's own model instead, to compare with: the same data, "
        'labels and hooks, no attention',
    ),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What is not given is the zoo's. More: docs/from_zoo.md",
    )
    add = parser.add_argument
    add('config', metavar='ZOO_CONFIG', help='name in the zoo, or a file')
    add('checkpoint', nargs='?', help="of the zoo's model, to start from")
    add('-o', '--out', type=Path, help='file or folder to write to')
    add('--force', action='store_true', help='replace an existing file')
    floats = dict(type=float, nargs='+')
    add('--scales', **floats, help='at test time. Default: 0.5 1.0 2.0')
    add(
        '--train-scales',
        **floats,
        help='in training. Default: 0.5 1.0; of a trained model those of '
        'the test and half of the lowest',
    )
    kinds = parser.add_mutually_exclusive_group()
    for kind, (option, text) in KINDS.items():
        kinds.add_argument(
            option,
            dest='kind',
            action='store_const',
            const=kind,
            default='multi-scale',
            help=text,
        )
    add('--num-classes', type=int, help='of your data')
    add(
        '--reinit-classifier',
        action='store_true',
        help='take a checkpoint with another number of classes, but for its '
        'classifiers',
    )
    add('--data-root', help='folder of your data')
    add(
        '--folder',
        help='train on your images and masks, FOLDER/images/{train,val} and '
        'FOLDER/masks/{train,val}',
    )
    add(
        '--classes',
        help='what the numbers in your masks mean, from 0 on: road,tree,sky, '
        'or a file with a class in each line, "road" or "road 128 64 128"',
    )
    pair = dict(type=int, nargs=2)
    size = ('WIDTH', 'HEIGHT')
    add('--image-scale', **pair, metavar=size, help='images are fitted into')
    add('--crop-size', **pair, metavar=size[::-1], help='in training')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert, and say what was done; 1 on an error."""
    args = vars(parse_args(argv))
    init_default_scope('mmseg')
    try:
        config, out, force = map(args.pop, ('config', 'out', 'force'))
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in args.items()
        }
        write_adapted(config, ZooSettings(**settings), out, force)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
