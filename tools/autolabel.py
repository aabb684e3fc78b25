"""Label images with a trained model: classes, and how sure it is of them.

    hmsa label CONFIG CHECKPOINT images/ labels/

Labels are named by the path of the image relative to the folder given.
Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from hmsa_mmseg.autolabel.label_options import parse_args
from hmsa_mmseg.autolabel.labelling import run
from hmsa_mmseg.prediction.errors import run_to_end
from hmsa_mmseg.reports import ReportOptions, make_report


def main(argv: list[str] | None = None) -> int:
    """Label all images; see :func:`run_to_end` for the exit status."""
    args = parse_args(argv, __doc__.split('\n')[0])
    return run_to_end(partial(run, args, make_report=_report))


def _report(out: Path, **options) -> Path:
    return make_report(out, ReportOptions(**options))


if __name__ == '__main__':
    sys.exit(main())
