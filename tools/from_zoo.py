"""Turn a config of mmseg's model zoo into a multi-scale one, in one step.

    python tools/from_zoo.py ocrnet_hr48_4xb2-160k_cityscapes-512x1024

writes a config that stands on its own: data, schedule, losses and all else
are the zoo's. With a checkpoint of the zoo's model, training starts from its
weights, after each of them was found in the new model.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from hmsa_mmseg.datasets.class_names import read_classes
from hmsa_mmseg.zoo import Conversion, convert, find_config, single_scale
from hmsa_mmseg.zoo.adaptation import (
    finetune,
    finetune_scales,
    set_checkpoint,
    set_data_root,
    set_num_classes,
    train_attention_only,
    training_length,
)
from hmsa_mmseg.zoo.checkpoint import check_checkpoint
from hmsa_mmseg.zoo.conversion import DEFAULT_SCALES
from hmsa_mmseg.zoo.layout import left_out
from hmsa_mmseg.zoo.naming import config_name, shortened_name
from hmsa_mmseg.zoo.own_data import set_folder
from hmsa_mmseg.zoo.sizes import set_crop_size, set_image_scale
from hmsa_mmseg.zoo.table import zoo_table
from hmsa_mmseg.zoo.writing import (
    header,
    next_steps,
    read_zoo_config,
    write_config,
)

TABLE = Path('docs/zoo_families.md')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config',
        nargs='?',
        metavar='ZOO_CONFIG',
        help='name of a config of the installed zoo, or a config file',
    )
    parser.add_argument(
        'checkpoint',
        nargs='?',
        metavar='CHECKPOINT',
        help="weights of the zoo's model, a file or address, to start from",
    )
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        help='file to write, or folder. Default: the current folder, under '
        'a name by the rules of the zoo',
    )
    parser.add_argument(
        '--scales',
        type=float,
        nargs='+',
        help='relative image sizes at test time. Default: 0.5 1.0 2.0',
    )
    parser.add_argument(
        '--train-scales',
        type=float,
        nargs='+',
        help='relative image sizes in training. Default: 0.5 1.0; with '
        '--attention-only or --finetune those of --scales and half of the '
        'lowest',
    )
    parser.add_argument(
        '--attention-only',
        action='store_true',
        help='train the attention branch of a trained model alone',
    )
    parser.add_argument(
        '--finetune',
        action='store_true',
        help='train all of a trained model on, at the scales of the test',
    )
    parser.add_argument(
        '--single-scale',
        action='store_true',
        help="write the zoo's own model instead, to compare with: the same "
        'data, labels and hooks, no attention',
    )
    parser.add_argument(
        '--num-classes', type=int, help="of your data. Default: the zoo's"
    )
    parser.add_argument(
        '--reinit-classifier',
        action='store_true',
        help='take a checkpoint with another number of classes, but for its '
        'classifiers',
    )
    parser.add_argument(
        '--data-root', help="folder of your data. Default: the zoo's"
    )
    parser.add_argument(
        '--folder',
        metavar='DIR',
        help='train on your images and masks, DIR/images/{train,val} and '
        'DIR/masks/{train,val}',
    )
    parser.add_argument(
        '--classes',
        metavar='NAMES',
        help='what the numbers in your masks mean, from 0 on: road,tree,sky, '
        'or a file with a class in each line, "road" or "road 128 64 128"',
    )
    parser.add_argument(
        '--image-scale',
        type=int,
        nargs=2,
        metavar=('WIDTH', 'HEIGHT'),
        help="images are resized to fit into it. Default: the zoo's",
    )
    parser.add_argument(
        '--crop-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="of crops in training. Default: the zoo's",
    )
    parser.add_argument(
        '--force', action='store_true', help='replace an existing file'
    )
    parser.add_argument(
        '--table',
        nargs='?',
        const=TABLE,
        type=Path,
        metavar='FILE',
        help='write the table of all families of the installed zoo instead, '
        f'in some minutes. Default: {TABLE}',
    )
    args = parser.parse_args(argv)
    if (args.config is None) == (args.table is None):
        parser.error('expected either ZOO_CONFIG or --table')
    if (args.folder is None) != (args.classes is None):
        parser.error('--folder and --classes go together')
    if args.folder is not None:
        for name in ('num_classes', 'data_root'):
            if getattr(args, name) is not None:
                parser.error(
                    f'--{name.replace("_", "-")} is given by --folder and '
                    '--classes'
                )
    for name in ('image_scale', 'crop_size'):
        if min(getattr(args, name) or [1]) < 1:
            parser.error(
                f'--{name.replace("_", "-")}: expected sides of 1 or more'
            )
    if args.checkpoint is None:
        for name in ('attention_only', 'finetune', 'reinit_classifier'):
            if getattr(args, name):
                parser.error(f'--{name.replace("_", "-")} needs a CHECKPOINT')
    for name in ('attention_only', 'finetune', 'scales', 'train_scales'):
        if args.single_scale and getattr(args, name):
            parser.error(
                f'--{name.replace("_", "-")} is of the multi-scale model, '
                'not of --single-scale'
            )
    if args.attention_only and args.finetune:
        parser.error('--attention-only and --finetune exclude each other')
    if args.reinit_classifier:
        for name in ('attention_only', 'finetune'):
            if getattr(args, name):
                parser.error(
                    f'--{name.replace("_", "-")} is for a trained model, '
                    'whose classifiers --reinit-classifier leaves untrained'
                )
    return args


def converted(
    args: argparse.Namespace, path: Path
) -> tuple[Conversion, list[str]]:
    """Convert a config as the command line says; with what is to be told."""
    told: list[str] = []
    scales = dict(train_scales=args.train_scales, test_scales=args.scales)
    given = {key: value for key, value in scales.items() if value is not None}
    if args.attention_only or args.finetune:
        given.setdefault(
            'train_scales', finetune_scales(args.scales or DEFAULT_SCALES)
        )
    cfg = read_zoo_config(path)
    conversion = (
        single_scale(cfg) if args.single_scale else convert(cfg, **given)
    )
    cfg, changes = conversion
    if args.num_classes is not None:
        told += set_num_classes(cfg, args.num_classes, changes)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root, changes)
    if args.folder is not None:
        classes = read_classes(args.classes)
        told += set_folder(cfg, args.folder, classes, changes)
    if args.image_scale is not None:
        set_image_scale(cfg, args.image_scale, changes)
    if args.crop_size is not None:
        set_crop_size(cfg, args.crop_size, changes)
    if args.reinit_classifier and not args.single_scale:
        cfg.model.decode_head.reinit_classifier = True
    if args.checkpoint is not None:
        checkpoint = args.checkpoint
        if os.path.exists(checkpoint):
            checkpoint = os.path.abspath(checkpoint)
        set_checkpoint(cfg, checkpoint, changes)
    if args.attention_only:
        train_attention_only(cfg, changes)
    if args.finetune:
        finetune(cfg, changes)
    return conversion, told


def out_path(args: argparse.Namespace, conversion: Conversion) -> Path:
    """Where to write.

    Raises:
        ValueError: If there is a file already, and no ``--force``.
    """
    stem = find_config(args.config).stem
    name = f'single_{stem}' if args.single_scale else config_name(stem)
    if args.attention_only or args.finetune:
        _, new = training_length(conversion.cfg)
        old = training_length(read_zoo_config(find_config(args.config)))[1]
        what = 'finetune' if args.finetune else 'attn-only'
        name = shortened_name(name, what, old, new)
    path = args.out or Path()
    if path.is_dir() or path.suffix != '.py':
        path = path / f'{name}.py'
    if path.exists() and not args.force:
        raise ValueError(f'{path} exists; --force replaces it')
    return path


def main(argv: list[str] | None = None) -> int:
    """Convert, and say what was done; 1 on an error."""
    args = parse_args(argv)
    init_default_scope('mmseg')
    try:
        if args.table is not None:
            args.table.parent.mkdir(parents=True, exist_ok=True)
            args.table.write_text(
                zoo_table(progress=lambda line: print(line, flush=True))
            )
            print(f'{args.table} was written')
            return 0
        source = find_config(args.config)
        conversion, told = converted(args, source)
        path = out_path(args, conversion)
        if args.checkpoint is not None:
            report = check_checkpoint(
                conversion.cfg, args.checkpoint, args.reinit_classifier
            )
            print(report.describe(args.checkpoint))
        text = write_config(conversion, path, header(conversion.cfg, source))
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{path}: {len(conversion.changes)} settings differ from the zoo')
    for line in told:
        print(line)
    dropped = left_out(conversion.cfg, text)
    if dropped:
        print(f'left out, as nothing reads them: {", ".join(dropped)}')
    print(next_steps(conversion.cfg, path))
    return 0


if __name__ == '__main__':
    sys.exit(main())
