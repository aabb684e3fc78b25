"""Data sets of a training run, from settings that may be foreign."""

from __future__ import annotations

import json
import os
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from .config_datasets import leaf_configs, relative_path
from .teacher_record import Training, labels_root, read_teacher

#: Arguments that do not say which images are in a data set.
_NOT_DESCRIBED = (
    *('type', 'source', 'images'),  # have entries of their own
    *('pipeline', 'metainfo', 'backend_args'),
    *('lazy_init', 'test_mode', 'serialize_data', 'max_refetch', 'like'),
)
#: Arguments that a data set gets no value of, when it is only listed.
_NOT_GIVEN = ('type', 'pipeline', 'backend_args', 'like')


def read_training_sets(
    settings: dict, source: str, key: str = 'train_dataloader'
) -> Training:
    """Describe the data sets of a loader; empty if there is none.

    ``settings`` are of a config, in plain types.
    """
    found = Training()
    loader = settings.get(key)
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    if dataset is None:
        return found
    try:
        leaves = [*leaf_configs(dataset)]
        # All of them, before images are listed.
        described = [_describe(leaf) for leaf in leaves]
    # A config that is none: numbers in the place of data sets.
    except (AttributeError, TypeError, ValueError) as error:
        found.sets.append(dict(type='unknown', source=source, images=None))
        found.notes.append(
            f'{key} is not understood: {type(error).__name__}: {error}'
        )
        return found
    for leaf, about in zip(leaves, described):
        kind = str(leaf.get('type'))
        images, problem = list_images(leaf)
        count = None if images is None else len(images)
        found.sets.append(
            dict(type=kind, source=source, **about, images=count)
        )
        found.images.extend(images or ())
        if images is None:
            where = f'{kind} ({leaf.get("data_root")})'
            found.notes.append(f'images of {where} are not listed: {problem}')
        folder = labels_root(leaf)
        if folder is None:
            continue
        # A teacher has made its labels.
        record = read_teacher(folder)
        if record.notes:
            record.sets.append(dict(type='unknown', images=None))
        for one in record.sets:
            one['teacher_of'] = str(folder)
        found.add(record)
    return found


def _describe(leaf: dict) -> dict[str, Any]:
    """Arguments that say which images are in a data set, as JSON has them."""

    def plain(value: object) -> object:
        if isinstance(value, (set, frozenset)):
            return sorted(map(str, value))
        return str(value)

    about = {k: v for k, v in leaf.items() if k not in _NOT_DESCRIBED}
    return json.loads(json.dumps(about, default=plain))


def list_images(
    leaf: dict,
) -> tuple[list[tuple[int, str]] | None, str | None]:
    """List size and relative name of a data set's images, or say why not.

    Its config may be foreign: no transform and no object within is built.
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
            (os.path.getsize(p), relative_path(p, folder)) for p in paths
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
    return isinstance(value, (bool, int, float, str, type(None)))
