"""Errors of a pipeline that say which image and step they are about."""

from __future__ import annotations

from mmengine.dataset import Compose


def _call(self: Compose, data: dict) -> dict | None:
    """Run the steps, as mmengine does.

    OpenCV and numpy say what is wrong with an array, not with which file.

    Raises:
        ValueError: If a step fails without naming the image or the label.
    """
    keys = ('img_path', 'seg_map_path') if isinstance(data, dict) else ()
    paths = [str(data[key]) for key in keys if data.get(key)]
    for step in self.transforms:
        try:
            data = step(data)
        except Exception as error:
            text = ' '.join(str(error).split())
            if not paths or any(path in text for path in paths):
                raise
            image = getattr(data.get('img'), 'shape', 'not loaded')
            raise ValueError(
                f'{paths[0]}: the data pipeline fails in '
                f'{type(step).__name__} (image: {image}): '
                f'{type(error).__name__}: {text[:500]}'
            ) from error
        if data is None:
            return None
    return data


# All ways to a sample: data sets of any package, in workers that start before
# any hook is called, and MMSegInferencer.
Compose.__call__ = _call
