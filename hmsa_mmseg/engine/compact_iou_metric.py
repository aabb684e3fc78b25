"""mmseg's mIoU, with little memory beside the counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmseg.evaluation.metrics import IoUMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class CompactIoUMetric(IoUMetric):
    """An ``IoUMetric`` that keeps the counts of all images in one array.

    mmseg's keeps four small tensors of each image. On a CPU they come to lie
    in the heap between what the model and the metric take for an image and
    give back, and cut it up: glibc 2.36 kept 2 MB of free memory more for
    each image of 256x512. Scores are the same.

    Args:
        *args: As in :class:`mmseg.evaluation.metrics.IoUMetric`.
        keep_results (bool): Not read; ``test.py --out`` sets it, for metrics
            that write files. Defaults to False.
        **kwargs: As in that class.
    """

    def __init__(self, *args, keep_results: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._counts = np.empty((0, 4, 0), np.float32)
        self._number = 0

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch."""
        super().process(data_batch, data_samples)
        for areas in self.results:
            if self._number == len(self._counts):
                shape = (2 * self._number + 512, 4, len(areas[0]))
                more = np.empty(shape, np.float32)
                if self._number:
                    more[: self._number] = self._counts
                self._counts = more
            self._counts[self._number] = torch.stack(areas).cpu().numpy()
            self._number += 1
        self.results.clear()

    def evaluate(self, size: int) -> dict:
        """Score all images; ``size`` is their number, of all processes."""
        counts = torch.from_numpy(self._counts[: self._number])
        self.results = [tuple(areas) for areas in counts]
        self._number = 0
        return super().evaluate(size)
