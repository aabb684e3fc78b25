"""The images of a run in its page: what is known of each, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from hmsa_mmseg.visualization import Record
from hmsa_mmseg.visualization.records import FLAT

from .pages import shrunk_uri
from .runs import Run, Scores, score

TITLES = {'winning_scale': 'winning scale', 'ground_truth': 'ground truth'}
#: Parts of keys that end in the scale: what the picture shows.
OF_SCALE = {'scale': 'prediction', 'attn': 'attention', 'weight': 'weight'}


class Picture(NamedTuple):
    """A picture in the page.

    Its key is as in the records; ``other_<i>`` is the prediction of the run
    that is i-th to be compared with. ``button`` is its title within a group:
    ``'result'``, a scale, or ``'other runs'``.
    """

    key: str
    title: str
    group: str
    button: str
    uri: str


@dataclass
class ImageRow:
    """An image in the page.

    ``gains`` are its mIoU minus that of each other show-dir, ``anchor`` is
    the id of its card; of most images no pictures are shown.
    """

    record: Record
    scores: Scores | None
    gains: list[float | None]
    anchor: str = ''
    pictures: Sequence[Picture] = ()

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

    @property
    def badness(self) -> tuple:
        """Lowest mIoU first; then, without labels, the least confident."""
        keys = [
            (math.isnan(number), 0 if math.isnan(number) else number)
            for number in (self.miou, self.confidence)
        ]
        return (*keys, self.record.image)


def image_rows(
    run: Run,
    others: Sequence[Run],
    max_images: int,
    max_bytes: float,
    width: int,
    progress: Callable[[int], Any],
) -> tuple[list[ImageRow], str]:
    """List the images of a run, the worst first, with pictures if any.

    Limits are those of :func:`.run_report.report_run`; ``progress`` is called
    with 1 for each image that has its pictures. The text says what kept
    others from having them, '' if all have.
    """
    rows = []
    for record in run.records:
        scores = score([record])
        gains = [_gain(scores, other, record.image) for other in others]
        rows.append(ImageRow(record, scores, gains))
    rows.sort(key=lambda row: row.badness)
    for i, row in enumerate(rows):
        row.anchor = f'image-{i}'
    used = 0
    for i, row in enumerate(rows):
        if i == max_images:
            return rows, f'{max_images} images'
        pictures = _pictures(run, row.record, others, width)
        used += sum(len(picture.uri) for picture in pictures)
        if used > max_bytes:
            return rows, f'{max_bytes / 1e6:g} MB of pictures'
        row.pictures = pictures
        progress(1)
    return rows, ''


def _gain(scores: Scores | None, other: Run, image: str) -> float | None:
    record = other.labelled.get(image)
    if scores is None or record is None:
        return None
    return scores.miou - score([record]).miou


def _pictures(
    run: Run, record: Record, others: Sequence[Run], width: int
) -> list[Picture]:
    """Pictures of an image, and what other runs have predicted for it."""
    pictures = [
        Picture(
            key, *_titles(key), uri=_encode(run.folder, record, key, width)
        )
        for key in record.pictures
    ]
    for i, other in enumerate(others):
        found = other.by_image.get(record.image)
        if found is not None and 'prediction' in found.pictures:
            pictures.append(
                Picture(
                    key=f'other_{i}',
                    title=f'prediction of {other.name}',
                    group='other runs',
                    button=other.name,
                    uri=_encode(other.folder, found, 'prediction', width),
                )
            )
    return pictures


def _titles(key: str) -> tuple[str, str, str]:
    """Title, group and title within the group of a key of the records."""
    kind, _, scale = key.partition('_')
    if kind not in OF_SCALE:
        title = TITLES.get(key, key)
        return title, 'result', title
    between = 'of' if kind == 'weight' else 'at'
    shown = OF_SCALE[kind]
    return f'{shown} {between} {scale}', f'scale {scale}', shown


def _encode(folder: Path, record: Record, key: str, width: int) -> str:
    path = folder / record.pictures[key]
    try:
        with Image.open(path) as file:
            # A JPEG can be read at a half, a quarter, or an eighth.
            file.draft('RGB', (width, width * file.height // file.width))
            image = file.convert('RGB')
    except FileNotFoundError as error:
        raise ValueError(
            f'{path}: the picture is missing, {record.image} lists it. '
            'Run test.py again, or leave pictures out: --max-images 0'
        ) from error
    except OSError as error:
        raise ValueError(f'{path}: no picture: {error}') from error
    # Below some pictures there is a legend; the page has its own.
    height, full_width = record.size
    rows = round(height * image.width / full_width)
    if image.height > rows:
        image = image.crop((0, 0, image.width, rows))
    return shrunk_uri(image, width, flat=key.startswith(FLAT))
