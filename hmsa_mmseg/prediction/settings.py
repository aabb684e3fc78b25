"""What results depend on, in ``DIR/infer.json``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hmsa_mmseg.utils.loading import find_test_set

from .errors import InferError, in_short
from .finished import write_json
from .layout import SETTINGS, is_result_folder
from .predicting import Predictor

VERSION = 1


def read_settings(
    cfg: Config, args: argparse.Namespace, predictor: Predictor
) -> dict[str, Any]:
    """Collect what results depend on.

    Args:
        cfg (Config): With the options of the run.
        args (Namespace): Of the command line.
        predictor (Predictor): Of the run.

    Returns:
        dict[str, Any]: Of plain types. What is written for each image, the
        device and the number of images in a batch are not among it: they
        change nothing, or only roundings.
    """
    test_cfg = {
        key: value
        for key, value in (cfg.model.get('test_cfg') or {}).items()
        if key != 'scale_maps'
    }
    model = {k: v for k, v in cfg.model.items() if k != 'test_cfg'}
    pipeline = find_test_set(cfg).get('pipeline') or cfg.get('test_pipeline')
    return dict(
        version=VERSION,
        checkpoint_sha256=file_digest(args.checkpoint),
        model=digest(model),
        test_cfg=json.loads(to_text(test_cfg)),
        pipeline=digest(pipeline),
        custom_hooks=digest(cfg.get('custom_hooks')),
        flip=args.flip,
        label_ids=args.label_ids,
        classes=list(predictor.classes),
        palette=json.loads(to_text(predictor.palette)),
    )


def digest_of(settings: Mapping[str, Any]) -> str:
    """A short name for settings."""
    return digest(settings)[:16]


def check_folder(
    out: Path,
    settings: Mapping[str, Any],
    overwrite: bool,
    **described: Any,
) -> None:
    """Refuse a folder with other results, else write the settings there.

    Args:
        out (Path): Folder of the results.
        settings (Mapping): Of this run.
        overwrite (bool): Whether other results may be replaced.
        **described: What else the file tells its reader.

    Raises:
        InferError: If the folder holds results of other settings, or files
            that are not known to be results.
        OSError: If it cannot be written.
    """
    path = out / SETTINGS
    # Before the file is looked for: other processes of this run write it
    # first, then results.
    folders = [
        folder.name
        for folder in (out.iterdir() if out.is_dir() else ())
        if is_result_folder(folder.name)
    ]
    if not overwrite and path.exists():
        _compare(path, settings)
        return
    if not overwrite and folders:
        raise InferError(
            f'{out} has a folder {folders[0]}, but no {SETTINGS}: it was not '
            'written by this program; expected another --out, or '
            '--overwrite to write there'
        )
    # All processes write the same, at the same time; on several machines
    # their numbers may be the same.
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    write_json(path, {**described, **settings}, part)


def _compare(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        other = [key for key in settings if found[key] != settings[key]]
    except (ValueError, KeyError, TypeError) as error:
        raise InferError(
            f'{path} is damaged or not of this program ({error!r}); expected '
            'another --out, or --overwrite'
        ) from error
    if other:
        key = other[0]
        raise InferError(
            f'{path}: the results there are of other settings: '
            f'{", ".join(other)} ({key} was {in_short(found[key])}, now it is '
            f'{in_short(settings[key])}); expected the same, another --out, '
            'or --overwrite'
        )


def to_text(value: Any) -> str:
    """A value of nested plain types as text, the same each time."""
    return json.dumps(value, sort_keys=True, default=str)


def digest(value: Any) -> str:
    """SHA-256 of a value of nested plain types."""
    return hashlib.sha256(to_text(value).encode()).hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: If it cannot be read.
    """
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
