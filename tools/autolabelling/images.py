"""Images, loaded for the model, and those that are not to be labelled."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from hmsa_mmseg.prediction.errors import InferError, in_one_line
from hmsa_mmseg.prediction.pipeline import Loaded, Pipeline

from .errors import BadImageError

#: Kinds of images that most data sets only have by mistake.
KINDS = ('alpha', '16-bit', 'grey', 'constant')
_SAID = {
    'alpha': 'it has transparency, which loaders drop',
    '16-bit': 'it has more than 8 bits, which loaders cut off',
    'grey': 'it has one channel',
    'constant': 'all of its pixels are the same',
}
# Of these the head, as Pillow reads it, says all; and 8 bits but for PNG.
_KNOWN_HEADS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP')
# EXIF, tag Orientation: where an image is to be turned by 90 degrees.
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


class ImageLoader:
    """Loads images as the config's test pipeline does, and looks at them.

    Args:
        pipeline (Pipeline): Of the config.
        allowed (Collection[str]): Which of :data:`KINDS` are labelled.
    """

    def __init__(self, pipeline: Pipeline, allowed: Collection[str]) -> None:
        self.pipeline = pipeline
        self.allowed = allowed

    def load(self, path: Path) -> Loaded:
        """Load an image.

        Args:
            path (Path): Of the file.

        Returns:
            Loaded: Ready for the model.

        Raises:
            BadImageError: If it is damaged or of a kind that is not allowed.
        """
        try:
            if not path.stat().st_size:
                raise BadImageError('empty', f'{path}: the file is empty')
            self._refuse(path, _kinds_of_file(path))
        except OSError as error:
            raise BadImageError('undecodable', f'{path}: {error}') from error
        try:
            loaded = self.pipeline.load(path)
        except InferError as error:
            raise BadImageError(_why(path), str(error)) from error
        if _is_constant(loaded.image):
            self._refuse(path, ['constant'])
        return loaded

    def _refuse(self, path: Path, kinds: Collection[str]) -> None:
        for kind in kinds:
            if kind not in self.allowed:
                raise BadImageError(
                    kind,
                    f'{path}: {_SAID[kind]}; expected 8-bit RGB, or '
                    f'--allow {kind}',
                )

    def has_size(self, path: Path, size: tuple[int, int]) -> bool:
        """Whether the loader gives an image this height and width.

        Args:
            path (Path): Of the file.
            size (tuple[int, int]): Height and width.

        Returns:
            bool: False if it cannot be read. The head of the file tells; an
            image that may be turned is loaded: whether it is is up to the
            loader.
        """
        try:
            with Image.open(path) as image:
                head = image.height, image.width
                # EXIF data may be behind the pixels, which Pillow would
                # decode to look: only where the head alone is not right.
                if image.format == 'PNG' and 'exif' not in image.info:
                    if head == size:
                        return True
                elif image.getexif().get(_ORIENTATION) not in _TURNED:
                    return head == size
        # What only OpenCV knows; and Pillow's readers raise anything.
        except Exception:
            pass
        try:
            results = self.pipeline.loader(dict(img_path=str(path)))
            return results['img'].shape[:2] == size
        except Exception:
            return False


def length_of(path: Path) -> int | None:
    """Bytes of a file; None if it cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _kinds_of_file(path: Path) -> list[str]:
    """Find which of :data:`KINDS` an image is, before it is loaded."""
    try:
        with Image.open(path) as image:
            known = image.format in _KNOWN_HEADS
            mode = image.mode
            has_alpha = 'A' in mode.upper() or 'transparency' in image.info
    except (UnidentifiedImageError, Image.DecompressionBombError):
        known = False
    # A damaged head: errors of many types.
    except Exception as error:
        raise BadImageError(
            'undecodable', f'{path}: damaged: {in_one_line(error)}'
        ) from error
    if known:
        is_deep = _png_depth(path) == 16
        is_grey = mode in ('1', 'L') or mode.startswith('I')
    else:
        try:
            pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        # Of a head that promises more pixels than OpenCV takes.
        except cv2.error:
            pixels = None
        if pixels is None:
            raise BadImageError(
                'undecodable', f'{path}: no image that OpenCV can read'
            )
        is_deep = pixels.dtype != np.uint8
        is_grey = pixels.ndim == 2
        has_alpha = pixels.ndim == 3 and pixels.shape[2] == 4
    found = dict(zip(KINDS, (has_alpha, is_deep, is_grey)))
    return [kind for kind in found if found[kind]]


def _png_depth(path: Path) -> int | None:
    """Bits of a channel of a PNG file, of which Pillow keeps eight."""
    with path.open('rb') as file:
        head = file.read(25)
    return head[24] if head.startswith(b'\x89PNG') else None


def _is_constant(image: np.ndarray) -> bool:
    height, width = image.shape[:2]
    # A single pixel says nothing.
    return height * width > 1 and bool((image == image[:1, :1]).all())


def _why(path: Path) -> str:
    """Find out at which step an image could not be loaded."""
    try:
        image = Image.open(path)
    # As above.
    except Exception:
        return 'undecodable'
    try:
        with image:
            image.load()
    except Exception:
        return 'truncated'
    return 'preparation'
