"""From the inputs on the command line to images and videos with names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from hmsa_mmseg.datasets.autolabel_files import META_FILE

from .errors import PredictionError
from .products import SETTINGS, is_result_folder

# What OpenCV decodes to eight bits, by its readers (imgcodecs,
# ImageDecoder), and mmcv with it.
IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jp2', '.png', '.webp', '.avif'),
    *('.bmp', '.dib', '.tif', '.tiff'),
    *('.pbm', '.pgm', '.ppm', '.pnm', '.sr', '.ras'),
)
# What FFmpeg, OpenCV's reader of videos, is mostly given.
VIDEO_SUFFIXES = (
    *('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm'),
    *('.mpg', '.mpeg', '.wmv', '.flv', '.mjpeg', '.mjpg', '.ts'),
)
LIST_SUFFIX = '.txt'


class Item(NamedTuple):
    """An image or a video.

    Its results are named after its path relative to the folder given, with
    ``/``, without the suffix.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """bool: Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_items(
    inputs: Sequence[str],
    suffixes: tuple[str, ...] = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES),
    root: str | None = None,
) -> list[Item]:
    """List the images and videos of the inputs.

    Args:
        inputs (Sequence[str]): Files, folders, which are searched with all
            folders in them, but for those of results, and lists, ``*.txt``,
            of one path a line, relative to the folder of the list.
        suffixes (tuple[str]): Of files that are taken.
        root (str, optional): Folder that names of listed files are relative
            to. Defaults to None: the one that they have in common.

    Returns:
        list[Item]: In the order of the inputs, a folder's sorted by path;
        each once.

    Raises:
        PredictionError: If the inputs make no sense, or two files would have
            results of one name.
    """
    found: list[Item] = []
    for text in inputs:
        path = Path(text)
        is_list = path.suffix.lower() == LIST_SUFFIX
        if root is not None and not is_list:
            raise PredictionError(
                f'--root {root}: {text} is no list ({LIST_SUFFIX}); names '
                'are relative to the folder given'
            )
        if path.is_dir():
            found += _of_folder(path, suffixes)
        elif is_list:
            found += _of_list(path, suffixes, root)
        else:
            found.append(_item(path, path.name, text, suffixes))
    items = unique(found)
    _check_videos(items)
    return items


def unique(items: Iterable[Item]) -> list[Item]:
    """Take each file once; refuse two files of one name."""
    found: dict[str, Item] = {}
    for item in items:
        other = found.setdefault(item.name, item)
        if other.path != item.path and not os.path.samefile(
            other.path, item.path
        ):
            raise PredictionError(
                f'{other.path} and {item.path} would both have results '
                f'named {item.name}; expected files whose paths differ in '
                'more than the folder given or the suffix: give the folder '
                'above both, or run once for each into another folder'
            )
    return [*found.values()]


def _item(
    path: Path, relative: str | PurePath, source: str, suffixes: Sequence[str]
) -> Item:
    if not path.is_file():
        raise PredictionError(
            f'{source}: there is no file or folder {path} (cameras and '
            'streams are not read)'
        )
    if path.suffix.lower() not in suffixes:
        raise PredictionError(
            f'{source}: {path} is nothing to predict by its name; expected a '
            f'folder, a list ({LIST_SUFFIX}), or one of {" ".join(suffixes)}'
        )
    return Item(path, _name(relative))


def _name(relative: str | PurePath) -> str:
    return PurePath(relative).with_suffix('').as_posix()


def _of_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Item]:
    paths = _walk(folder, suffixes, ())
    items = [Item(path, _name(path.relative_to(folder))) for path in paths]
    if not items:
        raise PredictionError(
            f'{folder}: nothing to predict in it, nor in the folders in it; '
            f'expected files {" ".join(suffixes)} (results of earlier runs '
            'do not count)'
        )
    return items


def _walk(
    folder: Path, suffixes: tuple[str, ...], passed: tuple[Path, ...]
) -> Iterator[Path]:
    """Yield files, also behind links, but for results of earlier runs.

    ``passed`` are the real folders above: a link may lead up.
    """
    real = folder.resolve()
    names = sorted(os.listdir(folder))
    if real in passed or META_FILE in names:
        return
    for name in names:
        path = folder / name
        is_result = SETTINGS in names and is_result_folder(name)
        if name.startswith('.') or is_result:
            continue
        # Not Path.is_dir, which raises an error for a link to itself.
        if os.path.isdir(path):
            yield from _walk(path, suffixes, (*passed, real))
        elif name.lower().endswith(suffixes):
            yield path


def _of_list(
    path: Path, suffixes: tuple[str, ...], root: str | None
) -> Iterator[Item]:
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
        listed = [
            Path(os.path.abspath(path.parent / line.strip()))
            for line in lines
            if line.strip()
        ]
        folders = [file.parent for file in listed]
        # Fails for two drives.
        start = root or (os.path.commonpath(folders) if folders else '')
    except (OSError, ValueError) as error:
        raise PredictionError(
            f'{path}: cannot be read as a list: {error}'
        ) from error
    if not listed:
        raise PredictionError(
            f'{path}: the list is empty; expected a path a line'
        )
    for file in listed:
        try:
            relative = file.relative_to(os.path.abspath(start))
        except ValueError as error:
            raise PredictionError(
                f'{path}: {file} is not in --root {root}'
            ) from error
        yield _item(file, relative, str(path), suffixes)


def _check_videos(items: Sequence[Item]) -> None:
    """Refuse files in a folder that has the name of a video's frames."""
    videos = {item.name: item for item in items if item.is_video}
    for item in items if videos else ():
        for parent in PurePath(item.name).parents:
            video = videos.get(parent.as_posix())
            if video is not None:
                raise PredictionError(
                    f'{item.path} and frames of {video.path} would have '
                    f'results in one folder, {video.name}; rename one of '
                    'them, or run once for each into another folder'
                )
