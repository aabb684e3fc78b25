"""What the files of a folder of auto-labels mean."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .autolabel_files import (
    FAILURES_FILE,
    LAYOUTS,
    META_FILE,
    label_file,
    read_lines,
    read_meta,
)

LABEL_FORMATS = ('trainIds', 'labelIds')


class LabelSettings(NamedTuple):
    """How labels were written, and where that is said.

    Attributes:
        label_format (str, optional): One of :data:`LABEL_FORMATS`.
        label_ids (list[int], optional): Value in the files of each class.
        layout (str, optional): One of ``LAYOUTS``.
        prob (bool, optional): Whether there are confidence maps.
        classes (list[str], optional): Names of the classes of ``label_ids``.
        palette (list, optional): Their colours, RGB.
        source (str): File that says so; '' if there is none, and then the
            others are None.
    """

    label_format: str | None = None
    label_ids: list[int] | None = None
    layout: str | None = None
    prob: bool | None = None
    classes: list[str] | None = None
    palette: list[list[int]] | None = None
    source: str = ''

    @property
    def folder(self) -> str:
        """str: Folder of all labels, which has the file of settings."""
        return osp.dirname(self.source)


def read_label_settings(folder: str) -> LabelSettings:
    """Read what `hmsa label` says about its labels.

    The file may also lie one folder above: labels of a single split are then
    a part of the whole. On a remote file back end it is not looked for.

    Raises:
        ValueError: If the file is damaged, or of a later version.
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

    Returns:
        LabelSettings: With a format, a layout and ``prob``.

    Raises:
        ValueError: If file and config disagree, if the format is not known,
            or if an option makes no sense.
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

    Args:
        classes (Sequence[str]): Of the data set.
        file_classes (Sequence[str]): Of the files. Those that the data set
            leaves out become 255.
        settings (LabelSettings): Merged ones.
        void_ids (Sequence[int]): Other label ids to ignore, 255 aside.

    Raises:
        ValueError: If a class of the data set is not in the files, or if
            ``label_ids`` are not different values from 0 to 254, one for each
            class.
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
