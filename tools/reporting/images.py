"""The images of a run in its page: what is known of each, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hmsa_mmseg.visualization import Record

from .pictures import Picture, encode_pictures
from .run import Run
from .scores import Scores, score


class Options(NamedTuple):
    """What the page shall be.

    Attributes:
        title (str): Its title.
        max_images (int): So many images have pictures at most.
        max_bytes (float): As many bytes as their pictures may take.
        width (int): Of the pictures, px, at most.
    """

    title: str
    max_images: int = 20
    max_bytes: float = 60e6
    width: int = 1024


class ImageRow(NamedTuple):
    """An image in the page.

    Attributes:
        anchor (str): Id of its card.
        record (Record): What is known of it.
        scores (Scores | None): None without ground truth.
        gains (list[float | None]): mIoU minus that of each other show-dir.
        pictures (list[Picture]): None are shown of most.
    """

    anchor: str
    record: Record
    scores: Scores | None
    gains: list[float | None]
    pictures: list[Picture]

    @property
    def groups(self) -> dict[str, list[Picture]]:
        """The pictures by what they belong to."""
        groups: dict[str, list[Picture]] = {}
        for picture in self.pictures:
            groups.setdefault(picture.group, []).append(picture)
        return groups

    @property
    def miou(self) -> float:
        """In percent; nan without labels."""
        return math.nan if self.scores is None else self.scores.miou

    @property
    def error(self) -> float:
        """Wrong pixels among the labelled ones, in percent."""
        return math.nan if self.scores is None else 100 - self.scores.aacc

    @property
    def confidence(self) -> float:
        """Mean confidence in percent; nan if it is not known."""
        value = self.record.mean_confidence
        return math.nan if value is None else 100 * value


def image_rows(
    run: Run,
    others: Sequence[Run],
    options: Options,
    progress: Callable[[], None],
) -> tuple[list[ImageRow], str]:
    """List the images of a run, the first ones with pictures.

    Args:
        run (Run): The run.
        others (Sequence[Run]): To compare it with.
        options (Options): How many pictures, and how large.
        progress (Callable): Is called for each image that has its pictures.

    Returns:
        tuple[list[ImageRow], str]: All images, the one of the lowest mIoU
        first, or, without labels, the least confident one; and what kept the
        others from having pictures, '' if all have.

    Raises:
        ReportError: If a picture is missing or damaged.
    """
    rows = []
    for record in run.records:
        scores = score([record])
        gains = [_gain(scores, other, record.image) for other in others]
        rows.append(ImageRow('', record, scores, gains, []))
    rows.sort(key=_badness)
    rows = [row._replace(anchor=f'image-{i}') for i, row in enumerate(rows)]
    used, limit = 0, ''
    for i, row in enumerate(rows):
        if i == options.max_images:
            return rows, f'{options.max_images} images'
        pictures = encode_pictures(run, row.record, others, options.width)
        size = sum(len(picture.uri) for picture in pictures)
        if used + size > options.max_bytes:
            return rows, f'{options.max_bytes / 1e6:g} MB of pictures'
        used += size
        rows[i] = row._replace(pictures=pictures)
        progress()
    return rows, limit


def _gain(scores: Scores | None, other: Run, image: str) -> float | None:
    record = other.by_image.get(image)
    there = None if record is None else score([record])
    if scores is None or there is None:
        return None
    return scores.miou - there.miou


def _badness(row: ImageRow) -> tuple:
    """Lowest mIoU first; then, without labels, the least confident."""
    keys = [
        (math.isnan(number), 0 if math.isnan(number) else number)
        for number in (row.miou, row.confidence)
    ]
    return (*keys, row.record.image)
