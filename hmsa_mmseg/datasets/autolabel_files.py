"""The files of auto-labels, below one folder: names, and what they mean.

``<name>.png`` holds the label of an image and ``<name>_prob.png`` its
confidence. ``<name>`` is the path of the image relative to the folder of all
images, with ``/``, without the suffix; the authors' own program writes base
names alone, into one flat folder (NVIDIA/semantic-segmentation,
utils/misc.py: ``ImageDumper``), their published archive has folders.
"""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

#: What :func:`label_file` takes: sub-folders kept, or the base name alone.
LAYOUTS = ('folders', 'authors-flat')
LABEL_FORMATS = ('trainIds', 'labelIds')
LABEL_SUFFIX = '.png'
PROB_SUFFIX = '_prob.png'
#: What the labels were made with, see :func:`read_meta`.
META_FILE = 'autolabel_meta.json'
#: One line for each labelled image, and for each that could not be.
MANIFEST_FILE = 'manifest.jsonl'
FAILURES_FILE = 'failures.jsonl'
#: One line for each image that is to be labelled.
IMAGES_FILE = 'images.jsonl'
REPORT_JSON = 'report.json'
REPORT_HTML = 'report.html'
#: Labels of images that have true ones, to check the teacher with.
CHECK_FOLDER = 'check'
#: Of the format of :data:`META_FILE`.
VERSION = 1


def label_file(name: str, layout: str = 'folders') -> str:
    """Path of the label of ``<name>``, relative to the folder of labels."""
    return _based(name, layout) + LABEL_SUFFIX


def prob_file(name: str, layout: str = 'folders') -> str:
    """Path of an image's confidence, likewise."""
    return _based(name, layout) + PROB_SUFFIX


def prob_of_label(path: str) -> str:
    """Path of the confidence that belongs to a label's path."""
    return path[: -len(LABEL_SUFFIX)] + PROB_SUFFIX


def round_folder(out: str | Path, number: int | None) -> Path:
    """Folder of the labels of a round; without a number ``out`` itself."""
    out = Path(out)
    return out if number is None else out / f'round_{number}'


def shard_file(name: str, index: int, count: int) -> str:
    """Name of the part of a file that one of several processes writes.

    ``manifest.jsonl`` of process 1 of 3, counted from 0, is
    ``manifest.1-of-3.jsonl``.
    """
    stem, suffix = name.rsplit('.', 1)
    return f'{stem}.{index}-of-{count}.{suffix}'


def read_meta(folder: str | Path) -> dict[str, Any]:
    """Read what a folder of auto-labels was made with.

    Returns:
        dict[str, Any]: With ``teacher``, ``settings``, ``trained_on``,
        ``round``, ``previous``, ``code_version`` and ``images``; in a folder
        of several identities the others are in ``mixed``.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is damaged, or of a later version.
    """
    path = Path(folder) / META_FILE
    content = path.read_bytes()
    try:
        meta = json.loads(content.decode())
        version = meta['version']
        if not all(
            isinstance(meta[key], dict) for key in ('teacher', 'settings')
        ):
            raise TypeError('teacher and settings are no objects')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is damaged or of another program ({error!r}); expected '
            'what hmsa label writes'
        ) from error
    if version != VERSION:
        raise ValueError(
            f'{path}: version={version!r}; expected {VERSION}: labels of '
            'another version of this package'
        )
    return meta


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line, whose last line may be torn.

    Lines that are torn or no object with a ``name`` are left out. Empty if
    there is no file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = []
    for text in content.split(b'\n'):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get('name'), str):
            lines.append(line)
    return lines


def _based(name: str, layout: str) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f'layout={layout!r}; expected one of {LAYOUTS}')
    return name if layout == 'folders' else PurePosixPath(name).name


class LabelSettings(NamedTuple):
    """How labels were written, and where that is said."""

    label_format: str | None = None  # of LABEL_FORMATS
    label_ids: list[int] | None = None  # value in the files of each class
    layout: str | None = None  # of LAYOUTS
    prob: bool | None = None  # whether there are confidence maps
    classes: list[str] | None = None  # names of those of label_ids
    palette: list[list[int]] | None = None  # their colours, RGB
    source: str = ''  # file that says so; without, all others are None

    @property
    def folder(self) -> str:
        """str: Folder of all labels, which has the file of settings."""
        return osp.dirname(self.source)


def read_label_settings(folder: str) -> LabelSettings:
    """Read what `hmsa label` says about its labels.

    The file may also lie one folder above: labels of a single split are then
    a part of the whole. On a remote file back end it is not looked for.
    """
    for parent in (folder, osp.dirname(folder.rstrip('/'))):
        path = osp.join(parent, META_FILE)
        try:
            settings = read_meta(parent)['settings']
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            found = LabelSettings(
                label_format=settings['label_format'],
                label_ids=[int(value) for value in settings['label_ids']],
                layout=settings['layout'],
                prob=settings['prob'] != 'none',
                classes=[str(name) for name in settings['classes']],
                palette=settings.get('palette'),
                source=path,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path}: settings are damaged ({error!r}); expected the '
                'file that hmsa label writes'
            ) from error
        if len(found.label_ids) != len(found.classes):
            raise ValueError(
                f'{path}: {len(found.label_ids)} label_ids of '
                f'{len(found.classes)} classes; expected one for each'
            )
        return found
    return LabelSettings()


def merge_settings(
    found: LabelSettings,
    given: LabelSettings,
    default: LabelSettings,
    folder: str,
) -> LabelSettings:
    """Put together what a file says, a config gives and else holds.

    The result has a format, a layout and ``prob``.
    """
    for name, expected in (
        ('label_format', LABEL_FORMATS),
        ('layout', LAYOUTS),
    ):
        value = getattr(given, name)
        if value is not None and value not in expected:
            raise ValueError(f'{name}={value!r}; expected one of {expected}')
    merged = {}
    for name in ('label_format', 'label_ids', 'layout', 'prob'):
        mine, theirs = getattr(given, name), getattr(found, name)
        if mine is not None and theirs is not None and mine != theirs:
            raise ValueError(
                f'{name}={mine!r}, but {found.source} says {theirs!r}; '
                'expected the same, or the argument left out'
            )
        merged[name] = theirs if mine is None else mine
    # Numbers of label ids belong to a format and are not taken from
    # elsewhere if that is another.
    format_ = merged['label_format'] or default.label_format
    if merged['label_ids'] is None and format_ == default.label_format:
        merged['label_ids'] = default.label_ids
    if format_ is None:
        raise ValueError(
            f'label_format is missing, and there is no {META_FILE} in '
            f'{folder!r} (data_prefix.seg_map_path) or the folder above; '
            "expected 'trainIds' if the files hold class numbers, 'labelIds' "
            'together with label_ids=[value of each class] if not'
        )
    if format_ == 'labelIds' and merged['label_ids'] is None:
        raise ValueError(
            "label_format='labelIds' without label_ids; expected the value "
            'in the files of each class'
        )
    merged['label_format'] = format_
    merged['layout'] = merged['layout'] or default.layout or 'folders'
    merged['prob'] = True if merged['prob'] is None else merged['prob']
    return found._replace(**merged)


def build_label_map(
    classes: Sequence[str],
    file_classes: Sequence[str],
    settings: LabelSettings,
    void_ids: Sequence[int] = (),
) -> dict[int, int]:
    """Return what maps the values of the files to classes.

    Classes of the files that the data set leaves out become 255, and so do
    the label ids ``void_ids``.
    """
    absent = [name for name in classes if name not in file_classes]
    if absent:
        raise ValueError(
            f'the auto-labels have no {absent[:5]} '
            f'({len(absent)} of {len(classes)} classes of the data set), '
            f'{settings.source or "by their class names"}: expected at least '
            'the classes of the data set, by the same names'
        )
    ids = settings.label_ids
    if ids is None:
        ids = range(len(file_classes))
    different = {*ids} & {*range(255)}
    if not len(ids) == len(file_classes) == len(different):
        raise ValueError(
            f'label_ids={[*ids]}; expected {len(file_classes)} different '
            'values from 0 to 254, one for each class'
        )
    if list(classes) == list(file_classes):
        # By position, as two classes may share a name.
        numbers = range(len(classes))
    else:
        numbers = [
            classes.index(name) if name in classes else 255
            for name in file_classes
        ]
    void = void_ids if settings.label_format == 'labelIds' else ()
    return {**dict.fromkeys(void, 255), **dict(zip(ids, numbers))}


def read_failures(settings: LabelSettings) -> dict[str, str]:
    """Read why labels could not be made: reasons by the labels' paths."""
    if not settings.source:
        return {}
    stem, suffix = FAILURES_FILE.rsplit('.', 1)
    failures = {}
    # One file for each process while they run, and one of all afterwards.
    for path in sorted(Path(settings.folder).glob(f'{stem}.*{suffix}')):
        for line in read_lines(path):
            name = label_file(line['name'], settings.layout)
            label = osp.join(settings.folder, name)
            failures[label] = str(line.get('reason'))
    return failures
