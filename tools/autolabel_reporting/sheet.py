"""Pictures of the images of which least is kept.

Shape shorthand in this module:
    H, W: image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from hmsa_mmseg.autolabel.report_tree import DamagedPairError, Tree
from hmsa_mmseg.datasets.confidence import is_kept
from hmsa_mmseg.visualization.colours import as_palette, heat, paint
from hmsa_mmseg.visualization.data_uris import data_uri

#: Width of pictures, px, at most.
WIDTH = 480
#: Of lossy WebP; Pillow's own default.
QUALITY = 80
#: Colour of pixels that are not kept.
DARK = (18, 18, 22)


class Sample(NamedTuple):
    """Pictures of an image.

    Attributes:
        row (dict): Of ``worst`` in the report.
        pictures (list[tuple[str, str | None]]): Title and picture; None if
            there is none.
        size (tuple[int, int]): Height and width of the image.
    """

    row: dict[str, Any]
    pictures: list[tuple[str, str | None]]
    size: tuple[int, int]


def draw_samples(
    tree: Tree, rows: Sequence[dict[str, Any]], threshold: float
) -> list[Sample]:
    """Draw images, their labels and their confidence.

    Args:
        tree (Tree): The folder.
        rows (Sequence[dict]): Images, as the report lists them.
        threshold (float): Pixels below it are dark in the label.

    Returns:
        list[Sample]: One for each, without pictures that cannot be drawn.
    """
    palette = as_palette(
        tree.meta['settings'].get('palette'), len(tree.classes)
    )
    keep = is_kept(threshold)
    samples = []
    for row in rows:
        line = tree.lines[tree.names[row['name']]]
        pictures = [('image', _image(row['image'], tree.folder))]
        try:
            label, confidence = tree.read(line)
        # Whoever writes to the folder meanwhile.
        except DamagedPairError:
            label = confidence = None
        if label is not None:
            colours = paint(label, palette)
            colours[~keep[confidence]] = DARK
            pictures.append(('label', _flat(colours)))
        if label is not None and tree.has_confidence:
            uri = _smooth(Image.fromarray(heat(confidence / 255)))
            pictures.append(('confidence', uri))
        samples.append(Sample(row, pictures, tuple(line['size'])))
    return samples


def _image(text: str | None, folder: Path) -> str | None:
    for path in (Path(text), folder / text) if text else ():
        try:
            with Image.open(path) as file:
                height = max(WIDTH * file.height // file.width, 1)
                file.draft('RGB', (WIDTH, height))
                # Readers of labels turn the image as its EXIF data say.
                return _smooth(ImageOps.exif_transpose(file).convert('RGB'))
        # Pillow's readers raise anything, also for what is only too large.
        except Exception:
            continue
    return None


def _smooth(image: Image.Image) -> str:
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.BOX)
    return data_uri(image, 'WEBP', quality=QUALITY, method=2)


def _flat(colours: np.ndarray) -> str:
    # A mean of two colours would be a third class.
    image = Image.fromarray(colours)
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.NEAREST)
    return data_uri(image, 'WEBP', lossless=True, method=2)
