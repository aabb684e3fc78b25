"""Convert weights of NVIDIA/semantic-segmentation, and back.

Takes the files of their ``ocrnet.HRNet_Mscale`` and of ``ocrnet.HRNet``, the
same network at one scale, without an attention branch. Every entry of the
file must find its place in our model and every entry of our model must be
filled; otherwise nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hmsa_mmseg.zoo.nvidia import convert_file

# The same place in a checkout and in an installed package (`.mim`).
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT.joinpath(
    'configs/hmsa',
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py',
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Convert the authors' HRNet-OCR models to MMSegmentation "
        'style, or back.'
    )
    parser.add_argument('src', help='src model path')
    # The dst path must be a full path of the new checkpoint.
    parser.add_argument('dst', help='save path')
    parser.add_argument(
        '--reverse',
        action='store_true',
        help="make a file for the authors' code (--snapshot) from a "
        'checkpoint of this package or of OCRNet of mmseg',
    )
    parser.add_argument(
        '--layout',
        choices=('hmsa', 'ocrnet'),
        default='hmsa',
        help='the model to make a checkpoint for: that of this package, or '
        'OCRNet of mmseg, without the attention branch. Default: hmsa',
    )
    parser.add_argument(
        '--verbose', action='store_true', help='list what became of each entry'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert a file; 1, and nothing written, if it does not fit."""
    args = parse_args(argv)
    try:
        result = convert_file(
            args.src, args.dst, CONFIG, args.reverse, args.layout
        )
    except (OSError, ValueError) as error:
        print(f'error: {error}\nnothing was written', file=sys.stderr)
        return 1
    print(f'{args.src}: all {len(result.used)} entries used, none missing')
    if args.verbose:
        for key, new_key in result.used.items():
            print(f'  {key} -> {new_key}')
    if not any('scale_attn.' in key for key in result.used):
        print('no attention branch: it keeps the initial values of the model')
    elif args.layout == 'ocrnet' and not args.reverse:
        print('left out: the attention branch, which OCRNet of mmseg lacks')
    print(f'wrote {args.dst}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
