"""What is known of each image of a run, in files beside its pictures.

A run in a folder ``DIR`` has

- ``DIR/scale_maps/run.json``, see :mod:`.run_file`;
- ``DIR/scale_maps/<path>.json`` for each image, a :class:`Record`, where
  ``<path>`` is its path below the images of the data set, without suffix;
- ``DIR/scale_maps/<path>/<picture>.png`` or ``.jpg``.

Each file is whole or absent, and an image that is seen again replaces what
was there, so that several processes can write, and a run be repeated.

Shape shorthand in this module:
    H, W: original size of an image, K: classes, S: scales.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from .json_files import read_json, write_json
from .run_file import FOLDER, RUN_FILE

#: Beginnings of the names of pictures of few flat colours, written as PNG.
#: The others are photographs and smooth maps: several times smaller as JPEG.
FLAT = ('prediction', 'ground_truth', 'scale_', 'winning_scale')
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Record:
    """One image; counts are of pixels, lists over classes have length K.

    A list ``[S][K]`` holds one list for each scale. None is what a result
    did not hold: labels, or the maps of scales of a stock model.

    Attributes:
        image (str): Path below the images of the data set, with ``/``.
        size (tuple[int]): H and W.
        scales (tuple[float]): Lowest first; none of a stock model.
        classes (tuple[str]): K names.
        palette (list[list[int]]): K colours, RGB.
        pictures (dict[str, str]): Paths of the pictures relative to ``DIR``.
        class_pixels (list[int]): Of each predicted class.
        intersect (list[int]): Predicted rightly, by class.
        predicted (list[int]): Of each predicted class, where labelled.
        labelled (list[int]): Of each true class. IoU = intersect / (predicted
            + labelled - intersect).
        scale_intersect (list[list[int]]): ``[S][K]``, of each scale alone.
        scale_predicted (list[list[int]]): Likewise.
        class_weights (list[list[float]]): ``[S][K]``, sums of the weights of
            each scale over the pixels of each predicted class.
        class_wins (list[list[int]]): ``[S][K]``, pixels of each predicted
            class in which a scale alone has the largest weight.
        labelled_weights (list[list[float]]): As ``class_weights``, over the
            pixels of each true class.
        labelled_wins (list[list[int]]): Likewise.
        mean_confidence (float): Of all pixels.
    """

    image: str
    size: tuple[int, int]
    scales: tuple[float, ...]
    classes: tuple[str, ...]
    palette: list[list[int]]
    class_pixels: list[int]
    pictures: dict[str, str] = field(default_factory=dict)
    intersect: list[int] | None = None
    predicted: list[int] | None = None
    labelled: list[int] | None = None
    scale_intersect: list[list[int]] | None = None
    scale_predicted: list[list[int]] | None = None
    class_weights: list[list[float]] | None = None
    class_wins: list[list[int]] | None = None
    labelled_weights: list[list[float]] | None = None
    labelled_wins: list[list[int]] | None = None
    mean_confidence: float | None = None


def stem_of(image: str) -> str:
    """Path of an image without suffix, as its files are named.

    ``run.json`` in the first folder is taken.
    """
    stem = PurePosixPath(image).with_suffix('').as_posix()
    return 'run_image' if stem == 'run' else stem


def write_pictures(
    root: str | os.PathLike, image: str, pictures: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Write the pictures of an image.

    Args:
        root (str | os.PathLike): ``DIR``.
        image (str): Path below the images of the data set.
        pictures (Mapping[str, ndarray]): RGB, uint8 (H, W, 3).

    Returns:
        dict[str, str]: Their paths relative to ``root``.

    Raises:
        OSError: If one cannot be written.
    """
    paths = {}
    for key, picture in pictures.items():
        suffix, options = '.jpg', [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        if key.startswith(FLAT):
            suffix, options = '.png', []
        path = PurePosixPath(FOLDER, stem_of(image), key + suffix)
        _, encoded = cv2.imencode(suffix, picture[..., ::-1], options)
        # cv2.imwrite does not tell of a full disk.
        _write_whole(Path(root, path), encoded.tobytes())
        paths[key] = path.as_posix()
    return paths


def write_record(root: str | os.PathLike, record: Record) -> Path:
    """Write the record of an image; one of the same image is replaced.

    Args:
        root (str | os.PathLike): ``DIR``.
        record (Record): Of the image.

    Returns:
        Path: The file.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the file is that of another image.
    """
    path = Path(root, FOLDER, stem_of(record.image) + '.json')
    if path.exists():
        other = read_record(path).image
        if other != record.image:
            raise ValueError(
                f'{path} is of the image {other}: {record.image} would take '
                'its place; images of one folder must differ by more than '
                'their suffix'
            )
    content = asdict(record)
    write_json(path, {k: v for k, v in content.items() if v is not None})
    return path


def read_record(path: str | os.PathLike) -> Record:
    """Read one file of :func:`write_record`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged or no such file; the message names it.
    """
    content = read_json(path)
    required = {f.name for f in fields(Record)[:6]}
    known = {f.name for f in fields(Record)}
    if not required <= content.keys() <= known:
        raise ValueError(
            f'{path} is no record of an image: expected {sorted(required)} '
            f'and some of {sorted(known - required)}; got {sorted(content)}'
        )
    record = Record(**content)
    num_classes, num_scales = len(record.classes), len(record.scales)
    for name, value in content.items():
        if name in _PER_CLASS:
            _check_shape(path, name, value, (num_classes,))
        elif name in _PER_SCALE:
            _check_shape(path, name, value, (num_scales, num_classes))
    _check_shape(path, 'palette', record.palette, (num_classes, 3))
    # JSON knows no tuples.
    return Record(
        **{
            **content,
            'size': tuple(record.size),
            'scales': tuple(record.scales),
            'classes': tuple(record.classes),
        }
    )


def read_records(root: str | os.PathLike) -> list[Record]:
    """Read the records of all images of a run, sorted by path.

    Args:
        root (str | os.PathLike): ``DIR``.

    Returns:
        list[Record]: One or more, of the same classes and scales.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is damaged, no record, or of other classes or
            scales than the first; the message names it.
    """
    folder = Path(root, FOLDER)
    paths = sorted(p for p in folder.rglob('*.json') if p.name[0] != '.')
    paths = [path for path in paths if path != folder / RUN_FILE]
    if not paths:
        raise FileNotFoundError(
            f'no records of images in {folder}; expected what test.py '
            '--show-dir writes there'
        )
    records = [read_record(path) for path in paths]
    for path, record in zip(paths, records):
        for name in ('classes', 'scales'):
            found, first = getattr(record, name), getattr(records[0], name)
            if found != first:
                raise ValueError(
                    f'{path} has {name} {found}, but {paths[0]} has {first}: '
                    'they are of different runs'
                )
    return records


_PER_CLASS = ('class_pixels', 'intersect', 'predicted', 'labelled')
_PER_SCALE = (
    'scale_intersect',
    'scale_predicted',
    'class_weights',
    'class_wins',
    'labelled_weights',
    'labelled_wins',
)


def _check_shape(
    path: str | os.PathLike, name: str, value: Sequence, shape: tuple
) -> None:
    try:
        found = np.asarray(value, dtype=float).shape
    except (TypeError, ValueError):
        found = 'no numbers'
    if found != shape:
        raise ValueError(
            f'{path} is damaged: {name} has {found}, expected {shape}'
        )


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, but for a loss of power.

    Waiting for the disk would take longer than drawing, with as many files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
