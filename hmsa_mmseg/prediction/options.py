"""The command line of ``hmsa infer``, and what others share with it."""

from __future__ import annotations

import argparse

from mmengine.config import DictAction

from .products import DEFAULT_SAVES, SAVES


def parse_args(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    add_model(parser)
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='input',
        help='image, video, folder, or list of paths (.txt)',
    )
    parser.add_argument('--out', required=True, help='folder of the results')
    parser.add_argument(
        '--save',
        nargs='+',
        choices=tuple(SAVES),
        default=DEFAULT_SAVES,
        help=f'what to write. Default: {" ".join(DEFAULT_SAVES)}',
    )
    add_prediction(parser).add_argument(
        '--label-ids',
        action='store_true',
        help="write classes as the data set's own label files number them, "
        'as the Cityscapes benchmark takes them',
    )
    group = add_running(parser)
    group.add_argument(
        '--batch-size',
        type=positive,
        default=1,
        help='images of one size that run at once. Default: 1',
    )
    group.add_argument(
        '--on-error',
        choices=('stop', 'skip'),
        default='stop',
        help='what to do with a damaged image or video. Skipped ones are '
        'listed in the end. Default: stop',
    )
    group.add_argument(
        '--frames',
        action='store_true',
        help='write overlays of a video as pictures, not as a video',
    )
    group.add_argument(
        '--video-format',
        choices=('mp4', 'avi'),
        default='mp4',
        help='of overlays of videos: MPEG-4 or Motion JPEG. Default: mp4',
    )
    return parser.parse_args(argv)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what names the model."""
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file path')


def add_prediction(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that change predictions, see :mod:`.model_options`."""
    group = parser.add_argument_group('prediction')
    group.add_argument(
        '--scales',
        type=_scales,
        help='relative image sizes, such as 0.5,1,2. Default: those of the '
        'config, model.test_cfg.scales',
    )
    group.add_argument(
        '--flip',
        action='store_true',
        help='average logits with those of the mirror image',
    )
    group.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        help='what backbone and heads compute in. Default: as in the config',
    )
    group.add_argument(
        '--slide',
        nargs=2,
        type=_size,
        metavar=('CROP', 'STRIDE'),
        help='predict in windows, each 512 or 512,1024 (height,width)',
    )
    group.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    return group


def add_running(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that change how a run goes, but not its results."""
    group = parser.add_argument_group('running')
    group.add_argument('--device', help='such as cpu or cuda. Default: a GPU')
    group.add_argument(
        '--shard',
        metavar='I/N',
        help='the share of this process, 0/3 to 2/3 for three. Default: as '
        'torchrun or slurm says',
    )
    group.add_argument(
        '--threads',
        type=count,
        default=2,
        help='that load images ahead. Default: 2',
    )
    group.add_argument(
        '--writers',
        type=positive,
        default=2,
        help='threads that write results. Default: 2',
    )
    group.add_argument(
        '--limit', type=positive, help='take the first inputs only'
    )
    group.add_argument(
        '--overwrite',
        action='store_true',
        help='do everything again, also in a folder with other results',
    )
    return group


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(','))


def _size(text: str) -> tuple[int, int]:
    parts = [positive(part) for part in text.split(',')]
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(
            f'expected height,width or one number for both, got {text!r}'
        )
    return parts[0], parts[-1]


def positive(text: str) -> int:
    """Read an integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected 1 or more, got {text!r}')
    return value


def count(text: str) -> int:
    """Read an integer of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'expected 0 or more, got {text!r}')
    return value
