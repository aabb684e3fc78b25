"""What a report on auto-labels is made from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

#: The authors' released recipe (NVIDIA/semantic-segmentation,
#: scripts/train_cityscapes_sota.yml: ``custom_coarse_prob``).
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
        target_precision (float): For the suggested threshold: of the pixels
            that it lets in.
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
