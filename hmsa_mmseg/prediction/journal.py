"""The journal of predictions: settings of all, and a file for each image.

``DIR/infer.json`` tells of which settings all results are.
``DIR/finished/<name>.json`` is removed before anything of an image is
written, and written after all of it. So it is there only if all files that it
names are whole, whatever has killed the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hmsa_mmseg.utils.files import (
    remove_stale_parts,
    remove_stale_parts_below,
    write_json,
)

from .errors import PredictionError
from .inputs import Item
from .products import FINISHED, RECORDS, SETTINGS, is_result_folder

#: 1 is that of version 0.1 of this package.
VERSION = 2


class Source(NamedTuple):
    """What an input file is known by: not its path, as folders are moved.

    None is what an earlier version of this package did not write; it counts
    as the same.
    """

    bytes: int | None
    sha256: str | None = None


class Journal:
    """What is finished in an output folder, by settings of this run."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.settings = dict(version=VERSION, **settings)
        self.digest = digest(self.settings)[:16]

    def open(self, overwrite: bool, **described: Any) -> None:
        """Write the settings, and what else is described, into the folder.

        Raises:
            PredictionError: If the folder holds results of other settings,
                or files that are not known to be results.
        """
        path = self.out / SETTINGS
        # Before the file is looked for: other processes of this run write it
        # first, then results.
        folders = [
            folder
            for folder in (self.out.iterdir() if self.out.is_dir() else ())
            if is_result_folder(folder.name)
        ]
        exists = path.exists() and not overwrite
        if exists:
            found = read_json(path)
            version = found.get('version')
            if version != VERSION:
                raise PredictionError(
                    f'{path} is damaged, or of another version of this '
                    f'package (version={version!r}, expected {VERSION}); '
                    'expected another --out, or --overwrite, which does all '
                    'again'
                )
            differing = {
                key: (found.get(key), value)
                for key, value in self.settings.items()
                if found.get(key) != value
            }
            cure = 'the same, another --out or --overwrite'
            refuse_other(path, differing, cure)
        elif folders and not overwrite:
            raise PredictionError(
                f'{self.out} has a folder {folders[0].name}, but no '
                f'{SETTINGS}: it was not written by this program; expected '
                'another --out, or --overwrite to write there'
            )
        remove_stale_parts([path], shared=True)
        for folder in folders:
            remove_stale_parts_below(folder)
        if not exists:
            write_json(path, {**described, **self.settings}, indent=1)

    def path(self, item: Item) -> Path:
        """Return the path of an item's file."""
        return self.out / FINISHED / f'{item.name}.json'

    def recorded(self, item: Item) -> set[str]:
        """Return all files of an item, none if it is not finished."""
        path = self.path(item)
        record = read_json(path)
        source = Source(record.get('bytes'), record.get('sha256'))
        if record.get('settings') != self.digest or not is_same(
            item.path, source, path.stat().st_mtime_ns
        ):
            return set()
        return set(record['files'])

    def files(self, item: Item) -> set[str]:
        """Return the files of an item that are still there."""
        recorded = self.recorded(item)
        return {file for file in recorded if (self.out / file).exists()}

    def clear(self, item: Item) -> set[str]:
        """Take an item as unfinished; return its files that were good."""
        good = self.files(item)
        self.path(item).unlink(missing_ok=True)
        return good

    def header(self, source: Source) -> dict[str, Any]:
        """What must be as it was for results to be still good."""
        return dict(settings=self.digest, **source._asdict())

    def write(self, item: Item, source: Source, files: Iterable[str]) -> None:
        """Take an item as finished, with these files."""
        record = dict(source=str(item.path), files=sorted(files))
        record.update(self.header(source))
        write_json(self.path(item), record, indent=1)

    def drop_foreign_records(self) -> None:
        """Remove records of images that are of other settings.

        A report counts what there is: with ``--overwrite`` and fewer inputs
        it would count the results of two runs as those of one.
        """
        for path in (self.out / FINISHED).rglob('*.json'):
            content = read_json(path)
            if content.get('settings', self.digest) == self.digest:
                continue
            for file in content.get('files', ()):
                if file.startswith(f'{RECORDS}/') and file.endswith('.json'):
                    (self.out / file).unlink(missing_ok=True)


def refuse_other(
    path: Path, differing: Mapping[str, tuple[Any, Any]], cure: str
) -> None:
    """Refuse to mix results of different settings, if anything differs.

    Args:
        path (Path): Of the file that tells what there is.
        differing (Mapping): What was, and what is asked for, by keys.
        cure (str): What is expected.
    """
    said = ', '.join(
        f'{key} was {_in_short(before)}, now it is {_in_short(now)}'
        for key, (before, now) in differing.items()
    )
    if said:
        raise PredictionError(
            f'{path}: what is there is of another model or other settings: '
            f'{said}; expected {cure}'
        )


def _in_short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 100 else f'{text[:100]} ...'


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; of none, or a foreign one, nothing.

    What it is about is then done again, or refused.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def source_of(path: str | os.PathLike) -> Source:
    """Read what a file is known by; an OSError says that it cannot."""
    stat = os.stat(path)
    return Source(stat.st_size, _digest_of(path, stat.st_size, _changed(stat)))


def is_same(path: Path, source: Source, since: int) -> bool:
    """Whether a file is the one that a result was made from.

    It has as many bytes, and was not touched since the result was written, in
    nanoseconds; or, where folders have been copied, the same content. What
    cannot be looked at is not the same.
    """
    try:
        stat = path.stat()
        if source.bytes not in (None, stat.st_size):
            return False
        changed = _changed(stat)
        if changed < since or source.sha256 is None:
            return True
        return source.sha256 == _digest_of(path, stat.st_size, changed)
    except OSError:
        return False


def _changed(stat: os.stat_result) -> int:
    # The latter also of a file that was moved here.
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=2**16)
def _digest_of(path: str | os.PathLike, size: int, changed: int) -> str:
    """SHA-256 of a file, read once for each change: videos are large."""
    return file_digest(path)


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file; an OSError says that it cannot be read."""
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a value of nested plain types."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
