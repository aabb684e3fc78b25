"""Write a segmentor as TorchScript.

Takes the arguments of mmseg's tool of this name, which does not run with
mmseg 1.x. Models of this package are written with all their scales, by what
``tools/export.py`` uses, which has more to offer; mmseg's encoder-decoders
as they see one whole image. Either file takes one normalised image,
(1, C, H, W), gives logits (1, K, H, W), and is compared with the model.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
from mmengine.config import DictAction

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from torch import nn

from hmsa_mmseg.export import ExportError, ExportSettings, export_model
from hmsa_mmseg.export.encoder_decoders import export_encoder_decoder
from hmsa_mmseg.export.out_path import check_out_path
from hmsa_mmseg.models import MultiScaleAttentionSegmentor
from hmsa_mmseg.utils.loading import build_model, load_model, read_config
from hmsa_mmseg.zoo import find_config


def export(model: nn.Module, path: str, size: tuple[int, int]) -> None:
    """Write a model, and print what was verified.

    Raises:
        ExportError: If it cannot be exported.
        OSError: If the file cannot be written.
        ValueError: If its scales make no sense.
    """
    if isinstance(model, MultiScaleAttentionSegmentor):
        settings = ExportSettings(format='torchscript', size=size, batch=1)
        for done in export_model(model, path, settings):
            print(f'verified: {done}')
        return
    difference = export_encoder_decoder(model, path, size)
    print(
        f'verified: 1 x {size[0]} x {size[1]}: logits differ by '
        f'{difference:.1e} of the largest at most'
    )
    if (model.test_cfg or {}).get('mode') == 'slide':
        print(
            "test_cfg.mode='slide' is not part of the file, which sees one "
            'image as a whole; windows are to be laid by the program around it'
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', help='config file path, or the name of one of the zoo'
    )
    parser.add_argument(
        '--checkpoint', help='checkpoint file. Default: random weights'
    )
    parser.add_argument(
        '--show', action='store_true', help='show TorchScript graph'
    )
    parser.add_argument(
        '--verify',
        action='store_true',
        help='taken as in mmseg; the file is always loaded and compared',
    )
    parser.add_argument('--output-file', type=str, default='tmp.pt')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[512, 512],
        help='input image size: height and width, or one number for both',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    args = parser.parse_args(argv)
    if len(args.shape) > 2 or min(args.shape) < 1:
        parser.error(
            f'--shape: expected one or two numbers from 1 on, got {args.shape}'
        )
    return args


def main(argv: list[str] | None = None) -> int:
    """Export; 1 on an error."""
    args = parse_args(argv)
    path = args.output_file
    try:
        inputs = dict(config=args.config)
        if args.checkpoint:
            inputs['checkpoint'] = args.checkpoint
        check_out_path(path, 'torchscript', inputs)
        cfg = read_config(str(find_config(args.config)), args.cfg_options)
        if args.checkpoint:
            model = load_model(cfg, args.checkpoint)
        else:
            # As mmseg's: the same weights in each run.
            torch.manual_seed(3)
            model = build_model(cfg)
            print('no --checkpoint: the weights are random')
        export(model, path, (args.shape[0], args.shape[-1]))
    except (ExportError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        print(f'{path} was not written', file=sys.stderr)
        return 1
    if args.show:
        print(torch.jit.load(path).inlined_graph)
    size = os.path.getsize(path) / 1e6
    print(f'Successfully exported TorchScript model: {path} ({size:.1f} MB)')
    return 0


if __name__ == '__main__':
    sys.exit(main())
