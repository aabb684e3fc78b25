"""Pictures of a run, made small enough for a page.

Shape shorthand in this module:
    H, W: size of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from hmsa_mmseg.visualization import Record
from hmsa_mmseg.visualization.data_uris import data_uri

from .run import ReportError, Run

#: Of lossy WebP; Pillow's own default.
QUALITY = 80
#: Of WebP, 0 (fast) to 6 (small). Takes a third to a half of the time of
#: Pillow's default, 4, for files that are at most 6 % larger.
METHOD = 2
#: Flat colours, each with a meaning: a mean of two of them would be a third.
FLAT = ('prediction', 'ground_truth', 'winning_scale')
TITLES = {'winning_scale': 'winning scale', 'ground_truth': 'ground truth'}
#: Parts of keys that end in the scale: what the picture shows.
OF_SCALE = {'scale': 'prediction', 'attn': 'attention', 'weight': 'weight'}
#: Key of the prediction of another run, by its index.
OTHER = 'other_{}'


class Picture(NamedTuple):
    """A picture in the page.

    Attributes:
        key (str): As in the records; ``other_<i>`` is the prediction of the
            run that is i-th to be compared with.
        title (str): For people.
        group (str): Pictures that belong together: ``'result'``, a scale, or
            ``'other runs'``.
        button (str): Its title within the group.
        uri (str): The picture itself.
    """

    key: str
    title: str
    group: str
    button: str
    uri: str


def encode_pictures(
    run: Run, record: Record, others: Sequence[Run], width: int
) -> list[Picture]:
    """Encode the pictures of an image.

    Args:
        run (Run): The run of the page.
        record (Record): Of the image.
        others (Sequence[Run]): Runs whose predictions stand beside them, if
            they have this image.
        width (int): Pictures that are wider are made smaller.

    Returns:
        list[Picture]: Those of the record, in its order, and then of others.

    Raises:
        ReportError: If a file is missing, or is no picture.
    """
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
                    key=OTHER.format(i),
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
        raise ReportError(
            f'{path}: the picture is missing, {record.image} lists it. '
            'Run test.py again, or leave pictures out: --max-images 0'
        ) from error
    except (OSError, UnidentifiedImageError) as error:
        raise ReportError(f'{path}: no picture: {error}') from error
    # Below some pictures there is a legend; the page has its own.
    height, full_width = record.size
    rows = round(height * image.width / full_width)
    if image.height > rows:
        image = image.crop((0, 0, image.width, rows))
    is_flat = key in FLAT or key.startswith('scale_')
    if image.width > width:
        size = (width, max(1, round(image.height * width / image.width)))
        how = Image.Resampling.NEAREST if is_flat else Image.Resampling.BOX
        image = image.resize(size, how)
    if is_flat:
        return data_uri(image, 'WEBP', lossless=True, method=METHOD)
    return data_uri(image, 'WEBP', quality=QUALITY, method=METHOD)
