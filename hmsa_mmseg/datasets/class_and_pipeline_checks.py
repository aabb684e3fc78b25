"""What a run checks of classes and pipelines of its data sets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from mmcv.transforms import (
    LoadAnnotations,
    Pad,
    RandomChoiceResize,
    RandomFlip,
    RandomResize,
    Resize,
)
from mmengine.logging import print_log
from mmseg.datasets.transforms import (
    RandomCrop,
    RandomRotate,
    RandomRotFlip,
    ResizeShortestEdge,
    ResizeToMultiple,
)

from .class_uniform_dataset import ClassUniformDataset
from .transforms import CentroidRandomCrop, LoadSegLabels
from .transforms.label_companions import LabelCompanion
from .wrappers import leaf_datasets

_GEOMETRIC = (
    *(Pad, RandomChoiceResize, RandomFlip, RandomResize, Resize),
    *(RandomCrop, RandomRotate, RandomRotFlip, ResizeShortestEdge),
    *(ResizeToMultiple, CentroidRandomCrop),
)

# Of what lies beside the image, as it is in its files.
_LOADERS = (LoadAnnotations, LabelCompanion)

_SWITCH = (
    'If it is meant, set default_hooks.checkpoint.check_classes=False '
    '(of SafeCheckpointHook)'
)


def check_dataset_classes(
    dataset: object, num_classes: int, where: str
) -> None:
    """Refuse a data set that has other classes than the model.

    Args:
        dataset (object): Of mmseg, or one that wraps such.
        num_classes (int): Of the decode head. 1, by which mmseg means a
            foreground alone, agrees with any.
        where (str): Key of the data set in the config.

    Raises:
        ValueError: If the number of names or of a label loader differs, or a
            name comes twice.
    """
    names = class_names(dataset)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f'{where}: classes has {", ".join(map(repr, twice))} more than '
            f'once: {_listed(names)}; expected different names'
        )
    if num_classes == 1:
        return
    if names and len(names) != num_classes:
        raise ValueError(
            f'{where}: the data set has {len(names)} classes '
            f'({_listed(names)}), the decode head num_classes={num_classes}; '
            f'expected one output for each class. {_SWITCH}'
        )
    for loader in _label_loaders(dataset):
        if loader.num_classes != num_classes:
            raise ValueError(
                f'{where}: LoadSegLabels has num_classes='
                f'{loader.num_classes}, the decode head {num_classes}; '
                f'expected the same number. {_SWITCH}'
            )


def check_checkpoint_classes(
    trained: Sequence[str], names: Sequence[str], where: str, path: str
) -> None:
    """Refuse a data set whose classes are not those of the checkpoint.

    Args:
        trained (Sequence[str]): Names in the checkpoint, in the order of the
            model's outputs; empty if it has none.
        names (Sequence[str]): Names of the data set; empty if it has none.
        where (str): Key of the data set in the config.
        path (str): Of the checkpoint.

    Raises:
        ValueError: If they differ, in their order too.
    """
    trained, names = list(trained), list(names)
    if not trained or not names or trained == names:
        return
    same = sorted(trained) == sorted(names)
    what = 'in another order' if same else 'others'
    raise ValueError(
        f'{where} has the classes of {path} {what}: {_listed(names)}; '
        f'trained were {_listed(trained)}. Expected the same names in the '
        'same order: give the data set those of the checkpoint (and '
        'LoadSegLabels a label_map, where the numbers in the files differ). '
        f'{_SWITCH}'
    )


def class_names(dataset: object) -> list[str]:
    """Names of the classes of a data set; empty if it has none."""
    metainfo = getattr(dataset, 'metainfo', None) or {}
    return [*(metainfo.get('classes') or ())]


def check_pipelines(dataset: object, is_training: bool, where: str) -> None:
    """Refuse pipelines that lose the label.

    Args:
        dataset (object): Of mmseg, or one that wraps such.
        is_training (bool): Whether it is trained on, or tested.
        where (str): Key of the data set in the config.

    Raises:
        ValueError: If a training pipeline moves the image before the label,
            or what changes it, is loaded, which then stays where it was, or
            one of a test pads the image, whose prediction is stretched over
            the original then.
    """
    by_class = is_training and isinstance(dataset, ClassUniformDataset)
    for leaf in leaf_datasets(dataset):
        moved, steps = None, [*_steps(getattr(leaf, 'pipeline', None))]
        kinds = {type(step) for step in steps}
        if (
            by_class
            and RandomCrop in kinds
            and CentroidRandomCrop not in kinds
        ):
            print_log(
                f'{where}: ClassUniformDataset chooses images by their '
                'classes, but RandomCrop does not look for these; expected '
                'CentroidRandomCrop in its place',
                logger='current',
                level=logging.WARNING,
            )
        for step in steps:
            name = type(step).__name__
            if not is_training:
                check_padding(step, where)
            if isinstance(step, _GEOMETRIC):
                moved = moved or name
            elif moved and is_training and isinstance(step, _LOADERS):
                raise ValueError(
                    f'{where}: {moved} comes before {name} in a training '
                    'pipeline, so the label would not follow the image; '
                    f'expected {name} before {moved}'
                )


def check_padding(step: object, where: str) -> None:
    """Refuse a step of a pipeline, of the key given, if it is a Pad."""
    if isinstance(step, Pad):
        raise ValueError(
            f'{where}: {type(step).__name__} in the pipeline of a test: what '
            'is predicted for the padding would be stretched over the image. '
            'Remove it; model.data_preprocessor.test_cfg='
            'dict(size_divisor=32) pads, and cuts again'
        )


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names)


def _label_loaders(dataset: object) -> Iterator[LoadSegLabels]:
    for leaf in leaf_datasets(dataset):
        for step in _steps(getattr(leaf, 'pipeline', None)):
            if isinstance(step, LoadSegLabels):
                yield step


def _steps(part: object) -> Iterator[object]:
    """List the steps of a pipeline, also those within wrappers."""
    inner = getattr(part, 'transforms', part)
    if isinstance(inner, (list, tuple)):
        for item in inner:
            yield from _steps(item)
    elif part is not None:
        yield part
