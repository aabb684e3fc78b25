"""From the images on the command line to names of labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config

from hmsa_mmseg.autolabel.config_datasets import (
    PREFIX,
    build_leaves,
    images_of,
)
from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER, META_FILE
from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.inputs import (
    IMAGE_SUFFIXES,
    LIST_SUFFIX,
    Item,
    common_folder,
    read_list,
)


def find_images(
    source: str, out: Path, cfg: Config, root: str | None = None
) -> list[Item]:
    """List the images of a folder, a list or a data set of the config.

    Args:
        source (str): From the command line.
        out (Path): Folder of the labels; it and other folders of labels hold
            no inputs.
        cfg (Config): Of a training or test run.
        root (str, optional): Folder that names of listed images are relative
            to. Defaults to None: the one that they have in common.

    Returns:
        list[Item]: Sorted by name, each file once.

    Raises:
        InferError: If there is none, one is missing or no image by its name,
            or two have one name.
        OSError, ValueError: If the config has no such data set, or its files
            are not there.
    """
    if root is not None and not source.lower().endswith(LIST_SUFFIX):
        raise InferError(
            f'--root {root}: {source} is no list ({LIST_SUFFIX}); names are '
            'relative to the folder given, or to that of the data set'
        )
    if source.startswith(PREFIX):
        items = _of_config(source, cfg)
    elif os.path.isdir(source):
        items = _of_folder(Path(source), out)
    elif source.lower().endswith(LIST_SUFFIX):
        items = _of_list(Path(source), root)
    else:
        raise InferError(
            f'{source}: no folder, no list ({LIST_SUFFIX}) and no '
            f'{PREFIX}LOADER; expected one of them'
        )
    found: dict[str, Item] = {}
    for item in items:
        other = found.setdefault(item.name, item)
        if other.path != item.path and not os.path.samefile(
            other.path, item.path
        ):
            raise InferError(
                f'{other.path} and {item.path} would both have the label '
                f'{item.name}.png; expected images whose paths differ in more '
                'than the suffix: label them into two folders'
            )
    return [found[name] for name in sorted(found)]


def check_names(
    items: Sequence[Item], files: PairFiles, has_check: bool
) -> None:
    """Refuse images whose labels would be in the way of something.

    Args:
        items (Sequence[Item]): All images, with different names.
        files (PairFiles): Where their labels will be.
        has_check (bool): Whether the folder of labels has one of a data set
            to check the teacher with.

    Raises:
        InferError: If two files of labels would be one, or one of them is an
            image.
    """
    labels: dict[Path, Item] = {}
    for item in items:
        other = labels.setdefault(files.label(item.name), item)
        if other is not item:
            raise InferError(
                f'{other.path} and {item.path} would both have the label '
                f'{files.label(item.name)}; expected --layout folders'
            )
        if has_check and item.name.split('/')[0] == CHECK_FOLDER:
            raise InferError(
                f'{item.path}: its label would be in {CHECK_FOLDER}/, where '
                '--check writes; expected a folder of another name'
            )
    real = lru_cache(maxsize=None)(Path.resolve)
    inputs = {real(i.path.parent) / i.path.name for i in items}
    inputs |= {i.path.resolve() for i in items if i.path.is_symlink()}
    for item in items:
        prob = files.prob(item.name)
        if prob in labels:
            raise InferError(
                f'{prob} would be the confidence of {item.path} and the label '
                f'of {labels[prob].path}; expected no name that ends in _prob'
            )
        for path in (files.label(item.name), prob):
            if real(path.parent) / path.name in inputs:
                raise InferError(
                    f'{path}: the label of {item.path} would replace an '
                    'image; expected another folder of labels'
                )


def _of_config(source: str, cfg: Config) -> Iterator[Item]:
    # In test mode labels need not be there.
    for leaf in build_leaves(cfg, source, test_mode=True):
        for image in images_of(leaf):
            yield Item(Path(image.path), image.name)


def _of_folder(folder: Path, out: Path) -> Iterator[Item]:
    if folder.resolve() == out.resolve():
        raise InferError(
            f'{out} is the folder of the images; expected another one for '
            'labels'
        )
    found = False
    for path in _walk(folder, (out.resolve(),)):
        found = True
        yield Item(path, path.relative_to(folder).with_suffix('').as_posix())
    if not found:
        raise InferError(
            f'{folder}: no image in it, nor in the folders in it; expected '
            f'files {" ".join(IMAGE_SUFFIXES)} (folders of labels do not '
            'count)'
        )


def _walk(folder: Path, passed: tuple[Path, ...]) -> Iterator[Path]:
    """Yield images, also behind links, but for those of labels.

    Args:
        folder (Path): Searched with all folders in it.
        passed (tuple[Path, ...]): Folders that are left out, without links:
            among them those above, for a link may lead up.
    """
    real = folder.resolve()
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    if real in passed or any(entry.name == META_FILE for entry in entries):
        return
    for entry in entries:
        if entry.name.startswith('.'):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, (*passed, real))
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield folder / entry.name


def _of_list(path: Path, root: str | None) -> Iterator[Item]:
    listed = read_list(path)
    start = os.path.abspath(root or common_folder(path, listed))
    for file in listed:
        if not file.name.lower().endswith(IMAGE_SUFFIXES):
            raise InferError(
                f'{path}: {file} is no image by its name; expected one of '
                f'{" ".join(IMAGE_SUFFIXES)}'
            )
        if not file.is_file():
            raise InferError(f'{path}: there is no file {file}')
        try:
            relative = file.relative_to(start)
        except ValueError as error:
            raise InferError(
                f'{path}: {file} is not in --root {root}'
            ) from error
        yield Item(file, relative.with_suffix('').as_posix())
