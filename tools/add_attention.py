"""Give a trained model attention over scales, and see what it gains.

    hmsa add-attention my_config.py my_checkpoint.pth

trains nothing but an attention branch, at all scales that the test uses and
half of the lowest, on images of the size of the test, and scores the model on
the validation split: at one scale as it was, averaged over the scales, and
blended by attention. It takes any config of mmseg whose model ends in a
classifier, and a checkpoint of it. The work folder then holds the config of
the new model and its checkpoint, for hmsa train, hmsa test and all tools. What
was interrupted goes on where it was.

--finetune trains all of the model on, which takes longer.

On several GPUs: hmsa from-zoo --attention-only or --finetune writes the same
config for hmsa train.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)
from hmsa_mmseg.zoo.adapting import ZooSettings
from hmsa_mmseg.zoo.attention import add_attention


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('config', help='of the trained model')
    add('checkpoint', help='of the trained model')
    add(
        '--work-dir',
        type=Path,
        help='for config, checkpoints and scores. Default: '
        'work_dirs/attention_ and the name of the config',
    )
    text = 'relative image sizes. Default: 0.5 1.0 2.0'
    add('--scales', type=float, nargs='+', help=text)
    add(
        '--finetune',
        dest='kind',
        action='store_const',
        const='finetune',
        default='attention-only',
        help='train all of the model, not attention alone',
    )
    add(
        '--iters',
        type=int,
        help='iterations, or epochs where the config counts those. Default: '
        "a twentieth of the config's",
    )
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the new config, in xxx=yyy format',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert, train and score; 1 on an error."""
    args = parse_args(argv)
    name = Path(args.config).stem
    work_dir = args.work_dir or Path('work_dirs', f'attention_{name}')
    settings = ZooSettings(
        checkpoint=args.checkpoint,
        kind=args.kind,
        scales=args.scales and tuple(args.scales),
        length=args.iters,
    )
    init_default_scope('mmseg')
    try:
        add_attention(args.config, settings, work_dir, args.cfg_options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
