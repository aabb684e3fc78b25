"""What a teacher was trained on, as far as its checkpoint tells.

A student that learns from a teacher's labels has in part learnt from the
teacher's own training images: a score on those says little.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

from mmengine.config import Config

from hmsa_mmseg.utils import safe_load

from .config_datasets import PREFIX
from .config_text import parse_config_text
from .seen_images import SEEN_FILE, count_seen, read_seen, write_seen
from .training_sets import TrainingSet, read_training_sets

__all__ = [
    'SEEN_FILE',
    'Training',
    'count_seen',
    'describe_training',
    'read_seen',
    'write_seen',
]


class Training(NamedTuple):
    """What a teacher was trained on.

    Attributes:
        sets (list[dict] | None): Its data sets, in plain types: ``type``,
            ``source`` ('checkpoint', 'load_from', 'config' or 'declared'),
            arguments such as ``data_root``, ``data_prefix``, ``cv`` and
            ``cities``, and ``images``, how many there are, None if they
            cannot be listed here. Data of an earlier teacher, whose labels
            this one has learnt from, have ``teacher_of``, the folder of those
            labels. A checkpoint that training started from is an entry of
            type 'load_from' with its ``path``. None if nothing is known.
        images (list[tuple[int, str]] | None): Size in bytes and relative
            name of each image that could be listed, sorted, once each. None
            if none could be.
        note (str): Where this is known from, and what is not known.
    """

    sets: list[dict] | None
    images: list[tuple[int, str]] | None
    note: str


def describe_training(
    checkpoint: str, cfg: Config, also: Sequence[str] = ()
) -> Training:
    """Find out what a teacher was trained on.

    mmengine, and mmcv before it, put the config of a training run into its
    checkpoints, as text. That is parsed, never run. Images are listed where
    their folders exist on this machine.

    Args:
        checkpoint (str): Of the teacher.
        cfg (Config): That labels are made with. What it trains on counts only
            if the checkpoint holds no config; it may not be what the teacher
            was trained with.
        also (Sequence[str]): Loaders of ``cfg``, such as
            ``config:val_dataloader``, whose data the teacher has seen too.

    Returns:
        Training: With what is known.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it is damaged, or ``cfg`` has no such loader.
    """
    sets, notes = _of_checkpoint(checkpoint, cfg)
    for key in also:
        key = key[len(PREFIX) :] if key.startswith(PREFIX) else key
        declared = read_training_sets(cfg.to_dict(), 'declared', key)
        if not declared:
            raise ValueError(
                f'{cfg.filename}: {key}.dataset is missing; expected the '
                'name of a data loader of the config'
            )
        sets += declared
    images = {image for one in sets for image in one.images or ()}
    for one in sets:
        notes += one.notes
    return Training(
        [one.description for one in sets] or None,
        sorted(images, key=lambda image: (image[1], image[0])) or None,
        '; '.join(notes),
    )


def _of_checkpoint(
    checkpoint: str, cfg: Config
) -> tuple[list[TrainingSet], list[str]]:
    """Follow a checkpoint to those that its training started from."""
    name = os.path.basename(checkpoint)
    sets: list[TrainingSet] = []
    settings, reason = _settings_of(checkpoint)
    if settings is None and reason:
        return sets, [f'what {name} was trained on is unknown: {reason}']
    if settings is None:
        sets = read_training_sets(cfg.to_dict(), 'config')
        return sets, [
            f'{name} holds no config; its data are taken from '
            f'{os.path.basename(cfg.filename or "the config")}, which may not '
            'be what it was trained with'
        ]
    notes = [f'data sets are read from the config in {name}']
    source, visited = 'checkpoint', {os.path.realpath(checkpoint)}
    while settings:
        found = read_training_sets(settings, source)
        if not found and source == 'checkpoint':
            notes.append(f'the config in {name} has no data to train on')
        sets += found
        start = settings.get('load_from')
        if not isinstance(start, str) or not start:
            break
        sets.append(TrainingSet(_start(start, source)))
        settings, reason = None, 'it is not on this machine'
        if os.path.isfile(start) and os.path.realpath(start) not in visited:
            visited.add(os.path.realpath(start))
            try:
                settings, reason = _settings_of(start)
            except (OSError, ValueError) as error:
                reason = str(error)
        if settings is None:
            reason = reason or 'it holds no config'
            notes.append(f'what {start} was trained on is unknown: {reason}')
        source = 'load_from'
    return sets, notes


def _start(path: str, source: str) -> dict:
    return dict(type='load_from', source=source, path=path)


def _settings_of(checkpoint: str) -> tuple[dict | None, str | None]:
    """Read the config of a training run that a checkpoint holds.

    Returns:
        tuple[dict | None, str | None]: Its settings. Without any: why what is
        there was not understood; None if there is no config.

    Raises:
        OSError, ValueError: As :func:`safe_load`.
    """
    # torch cannot map the files of before 1.6, which mmseg's zoo still has.
    loaded = safe_load(checkpoint, mapped=zipfile.is_zipfile(checkpoint))
    meta = loaded.get('meta') if isinstance(loaded, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    # The first is of mmengine, the second of mmcv 1.x.
    text = meta.get('cfg') or meta.get('config')
    if not isinstance(text, str):
        return None, None
    try:
        known, failed = parse_config_text(text)
    except ValueError as error:
        return None, str(error)
    for key in ('train_dataloader', 'data'):
        if key in failed:
            return None, f'{key} of its config: {failed[key]}'
    return known, None
