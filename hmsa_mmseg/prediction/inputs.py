"""From the inputs on the command line to images and videos with names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from mmengine.utils import scandir

from .errors import InferError
from .layout import is_result_folder

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

    Attributes:
        path (Path): Of the file.
        name (str): What its results are named after: its path relative to
            the folder given, with ``/``, without the suffix.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """bool: Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_items(inputs: Sequence[str], out: str | os.PathLike) -> list[Item]:
    """List the images and videos of the inputs.

    Args:
        inputs (Sequence[str]): Files, folders, which are searched with all
            folders in them, and lists, ``*.txt``, of one path a line,
            relative to the folder of the list. Names of a list's files are
            relative to the folder that they have in common.
        out (str | os.PathLike): Folder of the results, which are no inputs.

    Returns:
        list[Item]: In the order of the inputs, a folder's sorted by path;
        each once.

    Raises:
        InferError: If a file or folder is missing or of no known type, a
            folder holds nothing, or two files would have results of one
            name.
    """
    found: dict[str, Item] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            items = _of_folder(path, Path(out))
        elif path.suffix.lower() == LIST_SUFFIX:
            items = _of_list(path)
        else:
            items = iter([_item(path, PurePath(path.name), text)])
        for item in items:
            other = found.setdefault(item.name, item)
            if not _same_file(other.path, item.path):
                raise InferError(
                    f'{other.path} and {item.path} would both have results '
                    f'named {item.name}; expected files whose paths differ '
                    'in more than the folder given or the suffix: give the '
                    'folder above both, or run once for each with another '
                    '--out'
                )
    _check_videos(found)
    return [*found.values()]


def _item(path: Path, relative: PurePath, source: str) -> Item:
    known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if path.suffix.lower() not in known:
        raise InferError(
            f'{source}: {path} is no image or video by its name; expected a '
            f'folder, a list ({LIST_SUFFIX}), or one of {" ".join(known)}'
        )
    if not path.is_file():
        raise InferError(f'{source}: there is no file {path}')
    return Item(path, relative.with_suffix('').as_posix())


def _of_folder(folder: Path, out: Path) -> Iterator[Item]:
    known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    paths = sorted(
        Path(path)
        for path in scandir(
            folder, known, recursive=True, case_sensitive=False
        )
    )
    # Results of an earlier run, where they are kept beside the images.
    root, out_root = folder.resolve(), out.resolve()
    paths = [p for p in paths if not _is_result(root / p, out_root)]
    if not paths:
        raise InferError(
            f'{folder}: no image or video in it, nor in the folders in it; '
            f'expected files {" ".join(known)} (results of earlier runs '
            f'under {out} do not count)'
        )
    for path in paths:
        yield Item(folder / path, path.with_suffix('').as_posix())


def read_list(path: Path) -> list[Path]:
    """Read a list of paths.

    Args:
        path (Path): Of a text file with a path a line, relative to its
            folder.

    Returns:
        list[Path]: Absolute, one or more; whether they exist is not looked
        at.

    Raises:
        InferError: If it cannot be read or is empty.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InferError(f'{path}: cannot be read as a list: {error}') from (
            error
        )
    lines = [line.strip() for line in lines]
    listed = [
        Path(os.path.abspath(path.parent / line)) for line in lines if line
    ]
    if not listed:
        raise InferError(f'{path}: the list is empty; expected a path a line')
    return listed


def common_folder(path: Path, listed: Sequence[Path]) -> str:
    """Find the folder that the files of a list have in common.

    Raises:
        InferError: If they are on two drives.
    """
    try:
        return os.path.commonpath([file.parent for file in listed])
    # Of two drives.
    except ValueError as error:
        raise InferError(f'{path}: {error}') from error


def _of_list(path: Path) -> Iterator[Item]:
    listed = read_list(path)
    common = common_folder(path, listed)
    for file in listed:
        yield _item(file, file.relative_to(common), str(path))


def _is_result(path: Path, out: Path) -> bool:
    try:
        relative = path.relative_to(out)
    except ValueError:
        return False
    return is_result_folder(relative.parts[0])


def _same_file(first: Path, second: Path) -> bool:
    return first == second or os.path.samefile(first, second)


def _check_videos(found: dict[str, Item]) -> None:
    """Refuse files in a folder that has the name of a video's frames."""
    videos = {name for name, item in found.items() if item.is_video}
    for name, item in found.items():
        for parent in PurePath(name).parents:
            if parent.as_posix() in videos:
                video = found[parent.as_posix()]
                raise InferError(
                    f'{item.path} and frames of {video.path} would have '
                    f'results in one folder, {video.name}; rename one of '
                    'them, or run once for each with another --out'
                )
