"""Label images with a trained model: classes, and how sure it is of them.

    python tools/autolabel.py CONFIG CHECKPOINT images/ labels/

Labels are named by the path of the image relative to the folder given.
Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import sys

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from autolabelling.disk import is_full
from autolabelling.errors import DISK_FULL, SpaceError
from autolabelling.options import parse_args
from autolabelling.running import run
from autolabelling.stopping import Stopped, Stopping


def main(argv: list[str] | None = None) -> int:
    """Label all images.

    Returns:
        int: 0; 1 on an error, and if images could not be labelled; 28 if the
        disk is full; 128 and its number for a signal.
    """
    args = parse_args(argv, __doc__.split('\n')[0])
    try:
        with Stopping() as stopping:
            return run(args, stopping)
    except Stopped as stopped:
        print(f'{stopped}: the same command goes on', file=sys.stderr)
        return 128 + stopped.number
    except SpaceError as error:
        print(f'error: {error}', file=sys.stderr)
        return DISK_FULL
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        # Itself, or what it tells of.
        chain = (error, error.__cause__)
        return DISK_FULL if any(map(is_full, chain)) else 1


if __name__ == '__main__':
    sys.exit(main())
