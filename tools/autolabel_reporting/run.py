"""From a folder of auto-labels to its report."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

#: The authors' released code keeps labels from here on
#: (NVIDIA/semantic-segmentation, config.py:
#: ``cfg.DATASET.CUSTOM_COARSE_PROB``, 0.5 in their Cityscapes recipe).
DEFAULT_THRESHOLD = 0.5


class ReportOptions(NamedTuple):
    """What a report is made from, beside the folder itself.

    Attributes:
        config (str | None): Path of the config whose data sets are meant
            below; None if there are none.
        labelled (str | None): ``config:<loader>``: data set with true labels
            whose auto-labels are in ``OUT/check``.
        coarse (str | None): Likewise, of coarse labels of the same images.
        prior (str | None): Likewise, of the true labels whose shares of
            classes are compared with.
        threshold (float): Of confidence, 0 to 1.
        previous (Path | None): Folder of the labels of the round before;
            None: what the metadata name, if they do.
        workers (int): Processes that read; 0: this one.
        worst (int): So many images have pictures.
        low_coverage (float): Images that keep a smaller part of their pixels
            are listed.
        target_precision (float): For the suggested threshold.
        shows_progress (bool): Whether a line of progress is written.
    """

    config: str | None = None
    labelled: str | None = None
    coarse: str | None = None
    prior: str | None = None
    threshold: float = DEFAULT_THRESHOLD
    previous: Path | None = None
    workers: int = 2
    worst: int = 20
    low_coverage: float = 0.5
    target_precision: float = 0.5
    shows_progress: bool = True


def make_report(out: Path, options: ReportOptions) -> Path:
    """Write ``report.json`` and ``report.html`` of a folder of auto-labels.

    Args:
        out (Path): The folder.
        options (ReportOptions): What to compare with.

    Returns:
        Path: Of the page.

    Raises:
        OSError: If a file that is needed is missing, or none can be written.
        ValueError: If something does not fit; the message names it.
    """
    raise NotImplementedError
