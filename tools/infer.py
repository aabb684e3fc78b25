"""Predict images and videos: no ground truth and no data set needed.

    hmsa infer CONFIG CHECKPOINT photos/ clip.mp4 --out results

Results are named by the path of the image relative to the folder given.
Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import sys
from functools import partial

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from hmsa_mmseg.prediction.errors import run_to_end
from hmsa_mmseg.prediction.inferring import parse_args, run


def main(argv: list[str] | None = None) -> int:
    """Predict all inputs; see :func:`run_to_end` for the exit status."""
    args = parse_args(argv, __doc__.split('\n')[0])
    return run_to_end(partial(run, args))


if __name__ == '__main__':
    sys.exit(main())
