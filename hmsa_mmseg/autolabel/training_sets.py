"""Data sets of a training run, from settings that may be foreign."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from .config_datasets import leaf_configs
from .teacher_record import labels_root, read_teacher

#: Arguments that do not say which images are in a data set.
_NOT_DESCRIBED = (
    *('type', 'source', 'images'),  # have entries of their own
    *('pipeline', 'metainfo', 'backend_args'),
    *('lazy_init', 'test_mode', 'serialize_data', 'max_refetch', 'like'),
)
#: Arguments that a data set gets no value of, when it is only listed.
_NOT_GIVEN = ('type', 'pipeline', 'backend_args', 'like')
#: What arguments may be made of: all that JSON can hold.
_PLAIN = (bool, int, float, str, type(None))


class TrainingSet(NamedTuple):
    """A data set of a training run.

    Attributes:
        description (dict): As in :class:`.teacher.Training`.
        images (list[tuple[int, str]] | None): Likewise; None if they could
            not be listed.
        notes (tuple[str, ...]): What is not known.
    """

    description: dict
    images: list[tuple[int, str]] | None = None
    notes: tuple[str, ...] = ()


def read_training_sets(
    settings: dict, source: str, key: str = 'train_dataloader'
) -> list[TrainingSet]:
    """Describe the data sets of a loader.

    Args:
        settings (dict): Of a config, in plain types.
        source (str): Where they are from.
        key (str): The loader. Defaults to 'train_dataloader'.

    Returns:
        list[TrainingSet]: Empty if there is no such loader.
    """
    loader = settings.get(key)
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    if dataset is None:
        return []
    try:
        leaves = [*leaf_configs(dataset)]
        # All of them, before images are listed.
        plain = [_to_json(leaf) for leaf in leaves]
    # A config that is none: numbers in the place of data sets.
    except (AttributeError, TypeError, ValueError) as error:
        unknown = dict(type='unknown', source=source, images=None)
        note = f'{key} is not understood: {type(error).__name__}: {error}'
        return [TrainingSet(unknown, None, (note,))]
    sets: list[TrainingSet] = []
    for leaf, arguments in zip(leaves, plain):
        images, problem = list_images(leaf)
        about = {
            name: value
            for name, value in arguments.items()
            if name not in _NOT_DESCRIBED
        }
        description = dict(
            type=str(leaf.get('type')),
            source=source,
            **about,
            images=None if images is None else len(images),
        )
        notes = ()
        if images is None:
            where = f'{leaf.get("type")} ({leaf.get("data_root")})'
            notes = (f'images of {where} are not listed: {problem}',)
        sets.append(TrainingSet(description, images, notes))
        sets += _of_earlier_teacher(leaf)
    return sets


def list_images(
    leaf: dict,
) -> tuple[list[tuple[int, str]] | None, str | None]:
    """List the images of a data set.

    Args:
        leaf (dict): Its config, which may be foreign: no transform and no
            object within it is built.

    Returns:
        tuple[list[tuple[int, str]] | None, str | None]: Size and relative
        name of each; without them the reason.
    """
    known = _dataset_class(leaf.get('type'))
    if known is None:
        return None, 'its type is not known here'
    kwargs = _arguments(leaf)
    if '://' in str(kwargs):
        return None, 'it is not on this machine'
    # Not serialized: they are looked at once.
    kwargs.update(pipeline=[], test_mode=True, serialize_data=False)
    init_default_scope('mmseg')
    try:
        dataset = known(**kwargs)
        dataset.full_init()
        folder = dataset.data_prefix.get('img_path') or ''
        paths = [
            dataset.get_data_info(index)['img_path']
            for index in range(len(dataset))
        ]
        return [
            (os.path.getsize(p), _relative(p, folder)) for p in paths
        ], None
    # Constructors of mmseg have errors of many types, assertions among them.
    except Exception as error:
        text = ' '.join(str(error).split())
        return None, f'{type(error).__name__}: {text[:300]}'


def _dataset_class(name: object) -> type | None:
    """Find the class of a data set by the name it is registered with.

    Not ``DATASETS.build``: mmengine imports whatever a name with dots stands
    for, and calls it.
    """
    if not isinstance(name, str):
        return None
    # As configs in Python's own syntax have it, or with a scope.
    name = name.rsplit('.', 1)[-1]
    registry = DATASETS
    while registry is not None:
        found = registry.module_dict.get(name)
        if found is not None:
            is_leaf = isinstance(found, type) and issubclass(
                found, BaseDataset
            )
            return found if is_leaf else None
        registry = registry.parent
    return None


def _arguments(leaf: dict) -> dict:
    """Take those arguments of a data set that nothing is built of."""
    kwargs = {
        name: value
        for name, value in leaf.items()
        if isinstance(name, str)
        and name not in _NOT_GIVEN
        and _is_harmless(value)
    }
    # Of AutoLabelDataset: a data set, by its name or as a config.
    like = leaf.get('like')
    like = dict(type=like) if isinstance(like, str) else like
    if isinstance(like, dict):
        known = _dataset_class(like.get('type'))
        if known is not None:
            kwargs['like'] = dict(_arguments(like), type=known.__name__)
    return kwargs


def _is_harmless(value: object) -> bool:
    """Whether an argument is of plain values, with nothing to be built."""
    if isinstance(value, dict):
        return 'type' not in value and all(map(_is_harmless, value.values()))
    if isinstance(value, (list, tuple, set)):
        return all(map(_is_harmless, value))
    return isinstance(value, _PLAIN)


def _relative(path: str, folder: str) -> str:
    relative = os.path.relpath(path, folder) if folder else path
    # A list of images may point outside of the folder.
    if relative.startswith('..') or os.path.isabs(relative):
        relative = os.path.basename(path)
    return Path(relative).as_posix()


def _to_json(value: object) -> object:
    """Turn an argument into what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value if isinstance(value, _PLAIN) else str(value)


def _of_earlier_teacher(leaf: dict) -> Iterator[TrainingSet]:
    """Describe what made the labels of a data set, if a teacher did."""
    folder = labels_root(leaf)
    if folder is None:
        return
    sets, known, problem = read_teacher(folder)
    images = known or None
    for one in sets:
        yield TrainingSet({**one, 'teacher_of': str(folder)}, images)
        images = None  # the list is of all of them together
    if problem:
        unknown = dict(type='unknown', teacher_of=str(folder), images=None)
        yield TrainingSet(unknown, images, (problem,))
