"""The command line of ``hmsa label``."""

from __future__ import annotations

import argparse

from hmsa_mmseg.datasets.autolabel_files import LAYOUTS
from hmsa_mmseg.datasets.confidence import DEFAULT_THRESHOLD
from hmsa_mmseg.prediction.options import (
    add_prediction,
    add_running,
    positive,
)

from .label_images import KINDS


def parse_args(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file path')
    parser.add_argument(
        'images',
        help='folder, list of paths (.txt), or config:LOADER, such as '
        'config:train_dataloader: the images of a data set of the config',
    )
    parser.add_argument('out', help='folder of the labels')
    _add_images(parser)
    add_prediction(parser)
    _add_labels(parser)
    _add_running(add_running(parser))
    # What hmsa infer could be asked to write beside labels.
    parser.set_defaults(save=())
    return parser.parse_args(argv)


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('images')
    group.add_argument(
        '--root',
        help='folder that names of listed images are relative to. Default: '
        'the folder that they have in common',
    )
    group.add_argument(
        '--allow',
        nargs='+',
        choices=tuple(KINDS),
        default=(),
        help='label such images too; as a rule something is wrong with them',
    )


def _add_labels(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('labels')
    group.add_argument(
        '--label-format',
        choices=('labelIds', 'trainIds'),
        help='numbers of classes in the files: as the data set numbers them, '
        "or as the model does. Default: labelIds for Cityscapes' 19 classes, "
        'else trainIds',
    )
    group.add_argument(
        '--prob',
        choices=('floor255', 'none'),
        default='floor255',
        help='confidence in eight bits, cut off, or none. Default: floor255',
    )
    group.add_argument(
        '--layout',
        choices=LAYOUTS,
        default='folders',
        help='keep sub-folders, or write base names alone. Default: folders',
    )
    group.add_argument(
        '--round',
        type=positive,
        metavar='K',
        help='write OUT/round_K, and refer to the round before',
    )
    group.add_argument(
        '--check',
        metavar='config:LOADER',
        help='label this data set too, in OUT/check, to compare with its '
        'true labels in the report',
    )
    group.add_argument(
        *('--saw', '--teacher-saw'),
        nargs='+',
        default=(),
        metavar='LIST',
        help='data that the model was trained on, beside what its checkpoint '
        'tells: config:LOADER, or a list of images as teacher_images.txt',
    )
    group.add_argument(
        '--threshold',
        type=float,
        default=DEFAULT_THRESHOLD,
        help='of confidence, for the report alone: files hold all labels. '
        f'Default: {DEFAULT_THRESHOLD}',
    )
    group.add_argument(
        '--no-report', action='store_true', help='do not write a report'
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--oom',
        choices=('fail', 'slide', 'cpu'),
        default='fail',
        help='what to do with an image for which memory does not last: list '
        'it, predict it in windows, or on the CPU. Default: fail',
    )
    group.add_argument(
        '--max-errors',
        type=positive,
        default=100,
        metavar='N',
        help='stop when N images could not be labelled. Default: 100',
    )
    group.add_argument(
        '--ignore-space',
        action='store_true',
        help='go on where the labels will not fit on the disk',
    )
    group.add_argument(
        '--allow-mixed',
        action='store_true',
        help='keep labels of another teacher or other settings, and say so '
        'in the metadata',
    )
    group.add_argument(
        '--merge',
        action='store_true',
        help='label nothing: list what all processes have written, and make '
        'the report',
    )
    group.add_argument(
        '--timing', metavar='FILE', help='write where the time went, as JSON'
    )
