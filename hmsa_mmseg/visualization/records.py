"""What is known of a run and of each of its images, beside the pictures.

A run in a folder ``DIR`` has

- ``DIR/scale_maps/run.json``: of which model and which images it is;
- ``DIR/scale_maps/<path>.json`` for each image, a :class:`Record`, where
  ``<path>`` is its path below the images of the data set, without suffix;
- ``DIR/scale_maps/<path>/<picture>.png`` or ``.jpg``.

Each file is whole or absent, and an image that is seen again replaces what
was there, so that several processes can write, and a run be repeated.

Shape shorthand in this module:
    H, W: original size of an image, K: classes, S: scales.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from hmsa_mmseg.utils import atomic_file, write_json

FOLDER = 'scale_maps'
RUN_FILE = 'run.json'
VERSION = 1
#: Beginnings of the names of pictures of few flat colours, written as PNG.
#: The others are photographs and smooth maps: several times smaller as JPEG.
FLAT = ('prediction', 'ground_truth', 'scale_', 'winning_scale')
JPEG_QUALITY = 92
#: What may be another in a repeated run, which replaces its pictures.
_MAY_CHANGE = ('date', 'metrics', 'num_images')
# Of a record: what is always there, lists over classes, and those of each
# scale.
_NEEDED = {'image', 'size', 'scales', 'classes', 'palette', 'class_pixels'}
_BY_CLASS = ('class_pixels', 'intersect', 'predicted', 'labelled')
_BY_SCALE = (
    *('scale_intersect', 'scale_predicted', 'class_weights', 'class_wins'),
    *('labelled_weights', 'labelled_wins'),
)


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
        class_pixels (list[int]): Of each predicted class.
        pictures (dict[str, str]): Paths of the pictures relative to ``DIR``.
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


def write_run(root: str | os.PathLike, run: Mapping) -> None:
    """Write ``run.json``, in plain types.

    Of ``test.py`` it holds ``mode`` ('test', or 'val' within a training),
    ``config`` (name of its file), ``checkpoint``, ``model`` and ``dataset``
    (names of classes), ``tta`` (likewise, or None), ``scales``, ``images``
    (their folder), ``iter`` (of the training), ``date`` and, at the end,
    ``num_images`` and ``metrics``, ``{name: percent}``.
    """
    path = Path(root, FOLDER, RUN_FILE)
    write_json(path, {'version': VERSION, **run}, indent=None)


def read_run(root: str | os.PathLike) -> dict | None:
    """Read what :func:`write_run` was given, None if there is no file.

    A ValueError is raised if it is damaged.
    """
    path = Path(root, FOLDER, RUN_FILE)
    return _read(path) if path.exists() else None


def check_run(root: str | os.PathLike, run: Mapping) -> None:
    """Raise a ValueError if a folder has the pictures of another run.

    ``run`` is what :func:`write_run` will be given.
    """
    other = read_run(root)
    if other is None:
        return
    differing = [
        f'{key}: {other.get(key)!r}, now {run.get(key)!r}'
        for key in sorted({*other, *run} - {*_MAY_CHANGE})
        if other.get(key) != run.get(key)
    ]
    if differing:
        raise ValueError(
            f'{Path(root, FOLDER)} has the pictures of another run '
            f'({"; ".join(differing)}): give another folder, or remove it'
        )


def stem_of(image: str) -> str:
    """Path of an image without suffix, as its files are named.

    ``run.json`` in the first folder is taken.
    """
    stem = PurePosixPath(image).with_suffix('').as_posix()
    return 'run_image' if stem == 'run' else stem


def write_pictures(
    root: str | os.PathLike, image: str, pictures: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Write the pictures of an image, RGB uint8; give paths below ``root``.

    An OSError is raised if one cannot be written.
    """
    paths = {}
    for key, picture in pictures.items():
        suffix, options = '.jpg', [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        if key.startswith(FLAT):
            suffix, options = '.png', []
        path = PurePosixPath(FOLDER, stem_of(image), key + suffix)
        _, encoded = cv2.imencode(suffix, picture[..., ::-1], options)
        # Not cv2.imwrite, which does not tell of a full disk. Waiting for
        # the disk would take longer than drawing.
        with atomic_file(Path(root, path), sync=False) as file:
            file.write(encoded)
        paths[key] = path.as_posix()
    return paths


def write_record(root: str | os.PathLike, record: Record) -> Path:
    """Write the record of an image; one of the same image is replaced.

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
    known = {k: v for k, v in asdict(record).items() if v is not None}
    write_json(path, {'version': VERSION, **known}, indent=None)
    return path


def read_record(path: str | os.PathLike) -> Record:
    """Read one file of :func:`write_record`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged or no such file; the message names it.
    """
    content = _read(Path(path))
    known = {field.name for field in fields(Record)}
    if not _NEEDED <= content.keys() <= known:
        raise ValueError(
            f'{path} is no record of an image: expected {sorted(_NEEDED)} and '
            f'some of {sorted(known - _NEEDED)}; got {sorted(content)}'
        )
    num_classes = len(content['classes'])
    shapes = {
        'palette': (num_classes, 3),
        **dict.fromkeys(_BY_CLASS, (num_classes,)),
        **dict.fromkeys(_BY_SCALE, (len(content['scales']), num_classes)),
    }
    for name in content.keys() & shapes.keys():
        try:
            found = np.asarray(content[name], dtype=float).shape
        except (TypeError, ValueError):
            found = 'no numbers'
        if found != shapes[name]:
            raise ValueError(
                f'{path} is damaged: {name} has {found}, expected '
                f'{shapes[name]}'
            )
    # JSON knows no tuples.
    for name in ('size', 'scales', 'classes'):
        content[name] = tuple(content[name])
    return Record(**content)


def read_records(root: str | os.PathLike) -> list[Record]:
    """Read the records of all images of a run, sorted by path.

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
            '--show-dir writes there, with ScaleMapsVisualizer and '
            'ScaleMapsVisualizationHook in the config'
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


def _read(path: Path) -> dict[str, Any]:
    """Read a file of this module, without its version."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f'{path} is damaged: {error}') from error
    version = content.pop('version', None) if type(content) is dict else None
    if version != VERSION:
        raise ValueError(
            f'{path} was not written by this program: expected version '
            f'{VERSION}, got {version!r}'
        )
    return content
