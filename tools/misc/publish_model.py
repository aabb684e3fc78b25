"""Make a checkpoint fit to be published, or, with --all, to be resumed.

What is written holds tensors and plain values alone, and so loads with any
torch and without this package.

Takes the arguments of mmseg's tool of this name. That one cuts letters off
the name (``depth.pth`` becomes ``de-...``) and names the published file by
the hash of the one it was made from.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from pathlib import Path

import torch

import hmsa_mmseg  # noqa: F401  (prepares the stack)

# isort: split

from hmsa_mmseg.engine.plain import make_plain
from hmsa_mmseg.utils import atomic_file, safe_load

SUFFIX = '.pth'
KEYS = ('meta', 'state_dict')


def publish(in_file: str, out_file: str, keys: tuple[str, ...] | None) -> Path:
    """Write some entries of a checkpoint, or all, as ``name-<hash>.pth``.

    The hash are the first 8 digits of the written file's SHA-256.
    """
    checkpoint = safe_load(in_file)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise ValueError(
            f'{in_file} has no entry state_dict; expected a checkpoint of a '
            'training run'
        )
    keys = [*checkpoint] if keys is None else keys
    kept = {key: checkpoint[key] for key in keys if key in checkpoint}
    dropped = sorted({*checkpoint} - {*kept})
    if dropped:
        print(f'not published: {", ".join(dropped)}')
    make_plain(kept)
    content = io.BytesIO()
    torch.save(kept, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    out_file = Path(out_file)
    stem = out_file.name.removesuffix(SUFFIX)
    path = out_file.with_name(f'{stem}-{digest[:8]}{SUFFIX}')
    with atomic_file(path) as file:
        file.write(content.getbuffer())
    return path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('in_file', help='input checkpoint filename')
    parser.add_argument('out_file', help='output checkpoint filename')
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--save-keys',
        nargs='+',
        default=KEYS,
        help=f'entries to publish. Default: {" ".join(KEYS)}',
    )
    which.add_argument(
        '--all',
        action='store_true',
        help='keep all entries, so that a training can be resumed',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Publish; 1 on an error."""
    args = parse_args(argv)
    try:
        keys = None if args.all else tuple(args.save_keys)
        path = publish(args.in_file, args.out_file, keys)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'written: {path} ({path.stat().st_size / 1e6:.1f} MB)')
    return 0


if __name__ == '__main__':
    sys.exit(main())
