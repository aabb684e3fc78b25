"""A progress bar that starts when the work is known."""

from __future__ import annotations

import sys

from mmengine.utils import ProgressBar


class Progress:
    """mmengine's progress bar, with the time that is left.

    Args:
        shows (bool): Whether anything is shown: by one process of several.
    """

    def __init__(self, shows: bool) -> None:
        self.shows = shows
        self._bar: ProgressBar | None = None

    def start(self, total: int) -> None:
        """Show an empty bar of images and frames."""
        if self.shows and total:
            self._bar = ProgressBar(total, file=sys.stderr)

    def update(self) -> None:
        """Count an image or a frame."""
        bar = self._bar
        # The header of a video may promise too few frames.
        if bar is not None and bar.completed < bar.task_num:
            bar.update()

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            print(file=sys.stderr)
            self._bar = None
