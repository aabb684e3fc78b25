"""Predict images and videos: no ground truth and no data set needed.

    python tools/infer.py CONFIG CHECKPOINT photos/ clip.mp4 --out results

Results are named by the path of the image relative to the folder given.
Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import sys

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from hmsa_mmseg.prediction.options import parse_args
from hmsa_mmseg.prediction.running import run


def main(argv: list[str] | None = None) -> int:
    """Predict all inputs; 1 on an error, and if files were skipped."""
    args = parse_args(argv, __doc__.split('\n')[0])
    try:
        return run(args)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted: the same command goes on', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
