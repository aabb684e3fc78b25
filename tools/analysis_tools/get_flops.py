"""Count the operations and parameters of a segmentor's inference.

Takes the arguments of mmseg's tool of this name, which does not run with
mmengine 0.10. Nothing is computed where a model allows it.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from mmengine.config import DictAction

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from hmsa_mmseg.analysis.complexity import Complexity, complexity
from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import build_model, read_config
from hmsa_mmseg.zoo import find_config

LINE = '=' * 30
HOW = {
    'meta': 'counted at each operator, without values',
    'cpu': 'counted at each operator, on the CPU with an empty picture',
}


def describe(found: Complexity, shape: tuple[int, int]) -> str:
    """Format what was counted, in the order of mmseg's tool."""
    lines = [LINE]
    if found.padded_size != shape:
        lines += [
            f'Use size divisor set input shape from {shape} to '
            f'{found.padded_size}',
            LINE,
        ]
    if found.windows > 1:
        lines.append(f'Windows: {found.windows}, all counted')
    lines += [
        f'Compute type: {HOW[found.device]}',
        f'Input shape: {found.padded_size}',
        f'FLOPs: {amount(found.flops)} (two for each multiply-add)',
        f'MACs: {amount(found.macs)} (multiply-adds; mmengine and the '
        'tables of the zoo call these flops)',
        f'Params: {amount(found.params)}',
        LINE,
        'Counted: matrix products and convolutions. Not counted: '
        'normalisation, resizing, activations and other elementwise steps.',
    ]
    return '\n'.join(lines)


def amount(number: int) -> str:
    """Format a count with a decimal unit, such as ``1.234 G``."""
    for unit, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('K', 1e3)):
        if number >= size:
            return f'{number / size:.3f} {unit}'
    return str(number)


def as_dict(found: Complexity, config: str) -> dict[str, Any]:
    """What is written as JSON."""
    return dict(config=config, **found._asdict(), macs=found.macs)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', help='config file path, or the name of one of the zoo'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[2048, 1024],
        help='input image size: height and width, or one number for both',
    )
    parser.add_argument('--out', help='write the counts to this JSON file')
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
    """Count and print; 1 on an error."""
    args = parse_args(argv)
    shape = (args.shape[0], args.shape[-1])
    try:
        cfg = read_config(str(find_config(args.config)), args.cfg_options)
        found = complexity(build_model(cfg), shape)
        print(describe(found, shape))
        if args.out:
            text = json.dumps(as_dict(found, args.config), indent=2)
            with atomic_file(args.out) as file:
                file.write(f'{text}\n'.encode())
    except (OSError, RuntimeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
