"""Export a trained model to ONNX or torch.export.

The file holds all scales and their fusion. Before it takes its place it is
loaded again and compared with the model on random images.
"""

from __future__ import annotations

import argparse
import os
import sys

from mmengine.config import DictAction

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from hmsa_mmseg.export import (
    FORMATS,
    ExportError,
    ExportSettings,
    export_model,
)
from hmsa_mmseg.export.settings import check_out_path
from hmsa_mmseg.utils.loading import load_model, read_config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = ExportSettings._field_defaults
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file path')
    parser.add_argument(
        '--format',
        default=FORMATS[0],
        help=f'{" or ".join(FORMATS)}. Default: {FORMATS[0]}',
    )
    parser.add_argument(
        '--out',
        required=True,
        help='the file to write: .onnx, .pt2 (torch.export)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        required=True,
        metavar=('H', 'W'),
        help='size of the input',
    )
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='let the file take other sizes as well',
    )
    parser.add_argument(
        '--batch', type=int, help='number of images. Default: any'
    )
    parser.add_argument(
        '--scales',
        type=float,
        nargs='+',
        help='relative image sizes. Default: model.test_cfg.scales',
    )
    parser.add_argument(
        '--raw',
        nargs='?',
        const='uint8',
        choices=('uint8', 'float32'),
        help='take images as they are loaded, of this type (uint8), and '
        'normalise them within. Default: normalised images',
    )
    parser.add_argument(
        '--classes',
        action='store_true',
        help='give classes (N, H, W) instead of logits (N, K, H, W)',
    )
    parser.add_argument(
        '--opset',
        type=int,
        default=defaults['opset'],
        help=f'version of the ONNX operators. Default: {defaults["opset"]}',
    )
    parser.add_argument(
        '--fold-bn',
        action='store_true',
        help='make batch normalisation part of the convolutions; ONNX files '
        'up to opset 20 have it so anyway',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Export, and print what was verified; 1 on an error."""
    args = parse_args(argv)
    asked = {name: getattr(args, name) for name in ExportSettings._fields}
    for name in ('size', 'scales'):
        asked[name] = asked[name] and tuple(asked[name])
    settings = ExportSettings(**asked)
    try:
        inputs = dict(config=args.config, checkpoint=args.checkpoint)
        check_out_path(args.out, args.format, inputs)
        cfg = read_config(args.config, args.cfg_options)
        model = load_model(cfg, args.checkpoint)
        print(
            f'exporting to {args.format}, '
            f'{args.size[0]} x {args.size[1]}'
            f'{" and other sizes" if args.dynamic else ""} ...',
            flush=True,
        )
        export_model(
            model,
            args.out,
            settings,
            report=lambda done: print(f'verified: {done}', flush=True),
        )
    except (ExportError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{args.out} was not written', file=sys.stderr)
        return 1
    print(f'{args.out}: {os.path.getsize(args.out) / 1e6:.1f} MB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
