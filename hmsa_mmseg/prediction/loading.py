"""Images as the test pipeline of a config makes them, without labels."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmseg.datasets.transforms import (
    LoadBiomedicalAnnotation,
    LoadDepthAnnotation,
)
from mmseg.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

from hmsa_mmseg.datasets.class_and_pipeline_checks import check_padding
from hmsa_mmseg.utils.loading import find_test_set
from hmsa_mmseg.visualization.pictures import as_rgb

from .errors import BadInputError, PredictionError, in_one_line
from .journal import Source, source_of

_LABEL_LOADERS = (
    LoadAnnotations,
    LoadDepthAnnotation,
    LoadBiomedicalAnnotation,
)
# Of these OpenCV 4 gives what it finds of a truncated file, and no error.
_CHECKED_FORMATS = ('JPEG', 'MPO', 'PNG')


class Loaded(NamedTuple):
    """An image, ready for the model.

    Attributes:
        image (ndarray): As it was loaded: RGB, uint8 (h, w, 3).
        inputs (Tensor): What the model's preprocessor takes, (3, H, W).
        data_sample (SegDataSample): With the meta information.
        source (Source | None): None for a frame of a video.
    """

    image: np.ndarray
    inputs: Any
    data_sample: Any
    source: Source | None = None


class Pipeline:
    """The test pipeline of a config, without its loaders of labels.

    Raises:
        PredictionError: If it has none that begins with an image file.
        ValueError: If it pads images.
    """

    def __init__(self, cfg: Config) -> None:
        pipeline = find_test_set(cfg).get('pipeline') or cfg.get(
            'test_pipeline'
        )
        if not pipeline:
            raise PredictionError(
                f'{cfg.filename}: no test_dataloader.dataset.pipeline, which '
                'says how images are prepared; expected the config of a '
                'training or test run'
            )
        steps = [*map(TRANSFORMS.build, pipeline)]
        for step in steps:
            check_padding(step, f'{cfg.filename}: test_dataloader.dataset')
        self.loader, *self.steps = (
            step for step in steps if not isinstance(step, _LABEL_LOADERS)
        )
        if not isinstance(self.loader, LoadImageFromFile):
            raise PredictionError(
                f'{cfg.filename}: test_dataloader.dataset.pipeline begins '
                f'with {type(self.loader).__name__}; expected '
                'LoadImageFromFile'
            )

    def load(self, path: Path) -> Loaded:
        """Load and prepare an image file.

        Where its EXIF data say that the camera was turned, the image is
        turned, as in training: by the config's loader.
        """
        try:
            source = source_of(path)
            if not source.bytes:
                raise BadInputError('empty', f'{path}: the file is empty')
            _check_whole(path)
            results = self.loader(dict(img_path=str(path), seg_fields=[]))
        except BadInputError:
            raise
        # Readers raise errors of any type.
        except Exception as error:
            raise BadInputError(
                'undecodable',
                f'{path}: damaged, or of a kind that the loader of the config '
                f'does not read: {in_one_line(error)}',
            ) from error
        return self._prepare(path, results)._replace(source=source)

    def frame(self, path: Path, frame: np.ndarray) -> Loaded:
        """Prepare a frame of a video, BGR uint8 (h, w, 3), likewise."""
        if self.loader.to_float32:
            frame = frame.astype(np.float32)
        size = frame.shape[:2]
        results = dict(img=frame, img_shape=size, ori_shape=size)
        return self._prepare(path, dict(results, img_path=str(path)))

    def _prepare(self, path: Path, results: dict | None) -> Loaded:
        try:
            if results is not None:
                image = as_rgb(results['img'])
            for step in self.steps:
                results = None if results is None else step(results)
            if results is None:
                raise ValueError('a transform has given nothing')
            return Loaded(image, results['inputs'], results['data_samples'])
        # Transforms as well, also assertions.
        except Exception as error:
            raise BadInputError(
                'preparation',
                f'{path}: not to be prepared by the test pipeline: '
                f'{in_one_line(error)}',
            ) from error


def _check_whole(path: Path) -> None:
    """Read a file to its end; raise an error if it has none."""
    # What only OpenCV knows, or what is larger than Pillow reads.
    unknown = suppress(UnidentifiedImageError, Image.DecompressionBombError)
    with unknown, Image.open(path) as image:
        if image.format not in _CHECKED_FORMATS:
            return
        try:
            image.load()
        except Exception as error:
            raise BadInputError(
                'truncated', f'{path}: damaged: {in_one_line(error)}'
            ) from error
