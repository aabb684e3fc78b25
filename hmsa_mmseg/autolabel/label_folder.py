"""The folder of labels: of which teacher, and what stands in it at the start.

Teacher and settings are in ``autolabel_meta.json``, which :mod:`.meta`
compares; what is finished is told by the labels themselves, see
:mod:`.label_store`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from hmsa_mmseg.datasets.autolabel_files import (
    CHECK_FOLDER,
    IMAGES_FILE,
    META_FILE,
    VERSION,
    round_folder,
)
from hmsa_mmseg.prediction.errors import PredictionError
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.prediction.journal import refuse_other
from hmsa_mmseg.prediction.options import is_cityscapes, read_label_ids
from hmsa_mmseg.prediction.predictor import Predictor
from hmsa_mmseg.utils.files import part_file, remove_stale_parts_below
from hmsa_mmseg.version import __version__

from .merging import forget_failures, merge
from .meta import (
    MEANING,
    differences,
    link_to,
    mixed_with,
    read_meta,
    write_lines,
    write_meta,
)
from .teacher_record import SEEN_FILE, Training, write_seen

# 255 marks pixels without a label, in files as in training.
_MAX_VALUE = 254
_OF_RUNS = re.compile(rf'\..*|round_\d+|{CHECK_FOLDER}')


class Part(NamedTuple):
    """Images, of some source, that are labelled into one folder."""

    title: str
    folder: Path
    source: str
    items: list[Item]


def label_ids_of(
    cfg: Config, classes: Sequence[str], label_format: str | None
) -> tuple[str, np.ndarray]:
    """Find the format, and the numbers that stand for classes in the files.

    The format is by default ``labelIds`` for the 19 classes of Cityscapes,
    as of the authors' program, else ``trainIds``; numbers are int64 (K,).

    Raises:
        PredictionError: If they are not known or do not fit into eight bits.
    """
    count = len(classes)
    if count == 1:
        raise PredictionError(
            f'the model has one class, {classes[0]}: its labels would say '
            'nothing; expected two or more (mmseg: num_classes=2, also with '
            'out_channels=1)'
        )
    if label_format is None:
        of_cityscapes = count == 19 and is_cityscapes(cfg)
        label_format = 'labelIds' if of_cityscapes else 'trainIds'
    label_ids = np.arange(count)
    if label_format == 'labelIds':
        label_ids = read_label_ids(cfg, count, '--label-format labelIds')
    if label_ids.max() > _MAX_VALUE:
        raise PredictionError(
            f'the model has {count} classes, whose numbers in the files are '
            f'up to {label_ids.max()}; expected at most {_MAX_VALUE}, as '
            'labels have eight bits and 255 stands for none'
        )
    return label_format, label_ids


def build_meta(
    cfg: Config, args: argparse.Namespace, predictor: Predictor
) -> dict[str, Any]:
    """Collect what labels depend on: the metadata but for their images.

    Raises:
        PredictionError: If numbers of classes are not known, or the round
            before is not there or not finished.
    """
    label_format, label_ids = label_ids_of(
        cfg, predictor.classes, args.label_format
    )
    settings = predictor.settings()
    return dict(
        version=VERSION,
        teacher=dict(
            checkpoint=os.path.basename(args.checkpoint),
            checkpoint_sha256=settings.pop('checkpoint_sha256'),
            config=os.path.basename(args.config),
            config_sha256=settings.pop('config_sha256'),
        ),
        settings=dict(
            settings,
            label_format=label_format,
            label_ids=label_ids.tolist(),
            prob=args.prob,
            layout=args.layout,
        ),
        round=args.round,
        previous=_previous(Path(args.out), args.round),
        code_version=__version__,
    )


def _previous(out: Path, number: int | None) -> dict[str, str] | None:
    """Describe the round before, which must be finished."""
    if number is None or number == 1:
        return None
    before = round_folder(out, number - 1)
    try:
        missing = merge(before).missing
        link = link_to(before, round_folder(out, number))
    except (OSError, ValueError) as error:
        raise PredictionError(
            f'--round {number}: the labels of the round before are not to be '
            f'read: {error}; expected them in {before}'
        ) from error
    if missing:
        raise PredictionError(
            f'--round {number}: {len(missing)} images are not labelled in '
            f'{before}, such as {missing[0]}; expected that round to be '
            'finished'
        )
    return link


def open_folder(
    args: argparse.Namespace,
    part: Part,
    meta: dict[str, Any],
    training: Training,
) -> dict[str, Any]:
    """Claim a folder, made if it does not exist, for labels, or refuse it.

    Its metadata are returned as they are written: those of
    :func:`build_meta`, with what is mixed in.

    Raises:
        PredictionError: If it holds labels of another identity, or files that
            are not known to be labels.
    """
    out = part.folder
    meta = {
        **meta,
        'trained_on': training.sets or None,
        'trained_on_note': training.note,
        'images': dict(source=part.source, count=len(part.items)),
    }
    _check_writable(out)
    # Before the metadata are looked for: other processes of this run write
    # those first, then labels.
    names = sorted(os.listdir(out))
    try:
        found = read_meta(out)
    except FileNotFoundError:
        found = None
    except ValueError as error:
        if not args.overwrite:
            raise PredictionError(f'{error}; or --overwrite') from error
        found = None
    if found is None and not args.overwrite:
        others = [name for name in names if not _OF_RUNS.fullmatch(name)]
        # Unless it was written meanwhile by another process of this run.
        if others and not (out / META_FILE).exists():
            raise PredictionError(
                f'{out} has {others[0]}, but no {META_FILE}: it was not '
                'written by this program; expected another folder, or '
                '--overwrite to write there'
            )
    differing = differences(found, meta) if found is not None else {}
    if args.overwrite:
        if differing:
            forget_failures(out)
    elif found is not None:
        # What the files mean cannot be mixed, only who made them.
        if not args.allow_mixed or {*differing} & MEANING:
            cure = 'the same, another folder, or --overwrite'
            if not args.allow_mixed:
                cure += ' (--allow-mixed keeps what is there)'
            refuse_other(out / META_FILE, differing, cure)
        mixed = mixed_with(meta, found)
        if mixed:
            meta['mixed'] = mixed
    remove_stale_parts_below(out)
    write_meta(out, meta)
    lines = [
        dict(name=item.name, image=os.path.abspath(item.path))
        for item in part.items
    ]
    write_lines(out / IMAGES_FILE, lines)
    if training.images:
        write_seen(out / SEEN_FILE, training.images)
    else:
        (out / SEEN_FILE).unlink(missing_ok=True)
    return meta


def _check_writable(out: Path) -> None:
    """Find out now, not after the first image."""
    # Removed at the next start if this process is killed here.
    probe = part_file(out / META_FILE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with probe.open('wb'):
            pass
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(
            error.errno,
            f'{out} cannot be written: {error.strerror}; expected a folder '
            'that labels can be written to',
        ) from error
