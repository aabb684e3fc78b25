"""What all images and videos of a run have in common."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .failures import Failures
from .finished import Finished
from .pipeline import Pipeline
from .predicting import Predictor
from .products import Products
from .progress import Progress


class Run(NamedTuple):
    """What all images and videos of a run have in common.

    Attributes:
        out (Path): Folder of the results.
        pipeline (Pipeline): It prepares images.
        predictor (Predictor): It predicts them.
        products (Products): It writes the results.
        finished (Finished): It knows what is finished.
        failures (Failures): It is told what cannot be done.
        progress (Progress): It shows what is done.
        batch_size (int): Images that run at once.
        threads (int): Threads that load images.
        overwrite (bool): Whether all is done again.
        frames (bool): Whether overlays of a video are pictures.
        video_format (str): Of those that are not, ``mp4`` or ``avi``.
    """

    out: Path
    pipeline: Pipeline
    predictor: Predictor
    products: Products
    finished: Finished
    failures: Failures
    progress: Progress
    batch_size: int = 1
    threads: int = 0
    overwrite: bool = False
    frames: bool = False
    video_format: str = 'mp4'
