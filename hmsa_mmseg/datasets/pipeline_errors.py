"""Errors of a pipeline that say which image they are about."""

from __future__ import annotations

from collections.abc import Callable


class PipelineErrors:
    """A pipeline whose errors begin with the path of the image.

    OpenCV and numpy say what is wrong with an array, not with which file.

    Args:
        pipeline (Callable): Of a data set.
    """

    def __init__(self, pipeline: Callable[[dict], dict | None]) -> None:
        self.pipeline = pipeline

    def __call__(self, results: dict) -> dict | None:
        """Run the pipeline.

        Raises:
            ValueError: If a step of it fails without naming the image or the
                label.
        """
        paths = [results.get('img_path'), results.get('seg_map_path')]
        paths = [str(path) for path in paths if path]
        try:
            return self.pipeline(results)
        except Exception as error:
            text = ' '.join(str(error).split())
            if not paths or any(path in text for path in paths):
                raise
            raise ValueError(
                f'{paths[0]}: the data pipeline fails: '
                f'{type(error).__name__}: {text[:500]}'
            ) from error

    def __getattr__(self, name: str):
        """Be the pipeline for everything else.

        Raises:
            AttributeError: If it has no such attribute.
        """
        # Not while it is being unpickled in a worker.
        if name == 'pipeline':
            raise AttributeError(name)
        return getattr(self.pipeline, name)
