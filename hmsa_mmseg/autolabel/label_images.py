"""Images that are to be labelled: their names, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from PIL import Image

from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER
from hmsa_mmseg.prediction.errors import BadInputError, PredictionError
from hmsa_mmseg.prediction.inputs import (
    IMAGE_SUFFIXES,
    Item,
    find_items,
    unique,
)
from hmsa_mmseg.prediction.loading import Loaded, Pipeline

from .config_datasets import PREFIX, build_leaves, images_of
from .pairs import PairFiles

#: Kinds of images that most data sets only have by mistake, and what is said.
KINDS = {
    'alpha': 'it has transparency, which loaders drop',
    '16-bit': 'it has more than 8 bits, which loaders cut off',
    'grey': 'it has one channel',
    'constant': 'all of its pixels are the same',
}
# Of these the head, as Pillow reads it, says all; and 8 bits but for PNG.
_KNOWN_HEADS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP')


def find_images(
    source: str, out: Path, cfg: Config, root: str | None = None
) -> list[Item]:
    """List the images of a folder, a list or a data set of the config.

    They are sorted by name, each once; ``out`` must be another folder.
    """
    if source.startswith(PREFIX) and root is None:
        # In test mode labels need not be there.
        items = unique(
            Item(Path(image.path), image.name)
            for leaf in build_leaves(cfg, source, test_mode=True)
            for image in images_of(leaf)
        )
    else:
        if Path(source).resolve() == out.resolve():
            raise PredictionError(
                f'{out} is the folder of the images; expected another one '
                'for labels'
            )
        items = find_items([source], IMAGE_SUFFIXES, root)
    return sorted(items, key=lambda item: item.name)


def check_names(
    items: Sequence[Item], files: PairFiles, has_check: bool
) -> None:
    """Refuse images of which two files of labels would be one, or an image.

    ``has_check`` says that the folder has one of a data set to check with.
    """
    labels: dict[Path, Item] = {}
    for item in items:
        other = labels.setdefault(files.label(item.name), item)
        if other is not item:
            raise PredictionError(
                f'{other.path} and {item.path} would both have the label '
                f'{files.label(item.name)}; expected --layout folders'
            )
        if has_check and item.name.split('/')[0] == CHECK_FOLDER:
            raise PredictionError(
                f'{item.path}: its label would be in {CHECK_FOLDER}/, where '
                '--check writes; expected a folder of another name'
            )
    real = lru_cache(maxsize=None)(Path.resolve)
    inputs = {real(i.path.parent) / i.path.name for i in items}
    inputs |= {i.path.resolve() for i in items if i.path.is_symlink()}
    for item in items:
        prob = files.prob(item.name)
        if prob in labels:
            raise PredictionError(
                f'{prob} would be the confidence of {item.path} and the label '
                f'of {labels[prob].path}; expected no name that ends in _prob'
            )
        for path in (files.label(item.name), prob):
            if real(path.parent) / path.name in inputs:
                raise PredictionError(
                    f'{path}: the label of {item.path} would replace an '
                    'image; expected another folder of labels'
                )


def load_image(
    item: Item, pipeline: Pipeline, allowed: Collection[str]
) -> Loaded:
    """Load an image as the config's test pipeline does, and look at it.

    Raises:
        BadInputError: If it is damaged, or of :data:`KINDS` but not allowed.
    """
    # Before the loader makes 8 bits and three channels of it.
    kinds = _kinds_of_file(item.path)
    loaded = pipeline.load(item.path)
    height, width = loaded.image.shape[:2]
    # A single pixel says nothing.
    if height * width > 1 and (loaded.image == loaded.image[:1, :1]).all():
        kinds.append('constant')
    for kind, said in KINDS.items():
        if kind in kinds and kind not in allowed:
            raise BadInputError(
                kind,
                f'{item.path}: {said}; expected 8-bit RGB, or --allow {kind}',
            )
    return loaded


def _kinds_of_file(path: Path) -> list[str]:
    """Find which of :data:`KINDS` a file is; none of one that is damaged."""
    # Readers raise errors of many types; loading says what is wrong.
    with suppress(Exception), Image.open(path) as image:
        if image.format in _KNOWN_HEADS:
            with path.open('rb') as file:
                head = file.read(25)
            mode = image.mode
            found = {
                'alpha': 'A' in mode.upper() or 'transparency' in image.info,
                # Of which Pillow keeps eight.
                '16-bit': head.startswith(b'\x89PNG') and head[24] == 16,
                'grey': mode in ('1', 'L') or mode.startswith('I'),
            }
            return [kind for kind in found if found[kind]]
    with suppress(OSError, cv2.error):
        # Not cv2.imread, which crashes on names that are no text.
        content = np.fromfile(path, dtype=np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            found = {
                'alpha': pixels.ndim == 3 and pixels.shape[2] == 4,
                '16-bit': pixels.dtype != np.uint8,
                'grey': pixels.ndim == 2,
            }
            return [kind for kind in found if found[kind]]
    return []
