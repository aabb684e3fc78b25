"""The folder of labels: whose it is, and what stands in it at the start."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmsa_mmseg.autolabel.json_lines import write_lines
from hmsa_mmseg.autolabel.merging import (
    files_of,
    forget_failures,
    own_files,
)
from hmsa_mmseg.autolabel.meta import (
    MEANING,
    differences,
    mixed_with,
    read_meta,
    write_meta,
)
from hmsa_mmseg.autolabel.teacher import SEEN_FILE, Training, write_seen
from hmsa_mmseg.datasets.autolabel_files import (
    CHECK_FOLDER,
    IMAGES_FILE,
    META_FILE,
)
from hmsa_mmseg.prediction.errors import InferError, in_short
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.utils.files import part_file, remove_stale_parts

_OF_RUNS = re.compile(rf'\..*|round_\d+|{CHECK_FOLDER}')


def prepare_folder(
    out: Path,
    meta: dict[str, Any],
    items: Sequence[Item],
    own: Sequence[Item],
    training: Training,
    overwrite: bool = False,
    allow_mixed: bool = False,
) -> dict[str, Any]:
    """Claim a folder for labels, or refuse it.

    Args:
        out (Path): The folder; made if it does not exist.
        meta (dict): Of this run, whose labels it is to hold.
        items (Sequence[Item]): All images.
        own (Sequence[Item]): Those of this process, of which parts that a
            killed process has left are removed.
        training (Training): What the teacher was trained on.
        overwrite (bool): Whether labels of another identity are replaced.
        allow_mixed (bool): Whether they are kept.

    Returns:
        dict[str, Any]: The metadata as written, with what is mixed in.

    Raises:
        InferError: If it holds labels of another identity, or files that are
            not known to be labels.
        OSError: If it cannot be written.
    """
    _check_writable(out)
    # Before the metadata are looked for: other processes of this run write
    # those first, then labels.
    names = sorted(os.listdir(out))
    try:
        found = read_meta(out)
    except FileNotFoundError:
        found = None
    except ValueError as error:
        if not overwrite:
            raise InferError(f'{error}; or --overwrite') from error
        found = None
    if found is None and not overwrite:
        _refuse_foreign(out, names)
    meta = dict(meta)
    if found is not None and not overwrite:
        mixed = _compare(out, found, meta, allow_mixed)
        if mixed:
            meta['mixed'] = mixed
    if found is not None and overwrite and differences(found, meta):
        forget_failures(out)
    files = files_of(out, meta)
    remove_stale_parts(own_files(out), shared=True)
    remove_stale_parts(path for i in own for path in files.paths(i.name))
    write_meta(out, meta)
    write_lines(
        out / IMAGES_FILE,
        (
            dict(name=item.name, image=os.path.abspath(item.path))
            for item in items
        ),
    )
    if training.images is None:
        (out / SEEN_FILE).unlink(missing_ok=True)
    else:
        write_seen(out / SEEN_FILE, training.images)
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


def _refuse_foreign(out: Path, names: Sequence[str]) -> None:
    others = [name for name in names if not _OF_RUNS.fullmatch(name)]
    # Written meanwhile by another process of this run.
    if others and not (out / META_FILE).exists():
        raise InferError(
            f'{out} has {others[0]}, but no {META_FILE}: it was not written '
            'by this program; expected another folder, or --overwrite to '
            'write there'
        )


def _compare(
    out: Path,
    found: Mapping[str, Any],
    meta: Mapping[str, Any],
    allow_mixed: bool,
) -> list[dict[str, Any]]:
    """Return what is mixed into the folder; refuse what must not be."""
    differing = differences(found, meta)
    if not differing:
        return list(found.get('mixed') or ())
    said = ', '.join(
        f'{key} was {in_short(before, 100)}, now it is {in_short(now, 100)}'
        for key, (before, now) in differing.items()
    )
    meaning = [f'settings.{key}' for key in MEANING]
    if allow_mixed and not {*differing} & {*meaning}:
        return mixed_with(meta, found)
    cure = 'the same, another folder, or --overwrite'
    if not allow_mixed:
        cure += ' (--allow-mixed keeps what is there)'
    raise InferError(
        f'{out / META_FILE}: the labels there are of another teacher or '
        f'other settings: {said}; expected {cure}'
    )
