"""Which images and videos are finished: a small file for each.

``DIR/finished/<name>.json`` is removed before anything of an image is
written, and written after all of it. So it is there only if all files that it
names are whole, whatever has killed the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hmsa_mmseg.utils import atomic_file

from .inputs import Item
from .layout import FINISHED, RECORDS, part_of


def write_json(
    path: Path, content: Mapping[str, Any], part: Path | None = None
) -> None:
    """Write a JSON file whole or not at all.

    Args:
        path (Path): Of the file.
        content (Mapping): Of plain types.
        part (Path, optional): Where it is written meanwhile. Defaults to
            None, a name that is the same in all processes: for files that
            one of them writes.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_file(path, part=part or part_of(path)) as file:
        file.write(json.dumps(content, indent=1).encode() + b'\n')


class Finished:
    """The finished images and videos of an output folder.

    Args:
        out (Path): The folder.
        digest (str): Of the settings that results depend on.
    """

    def __init__(self, out: Path, digest: str) -> None:
        self.out = out
        self.digest = digest

    def path(self, item: Item) -> Path:
        """Return the path of an item's file."""
        return self.out / FINISHED / f'{item.name}.json'

    def header(self, item: Item) -> dict[str, Any]:
        """What must be as it was for results to be still good.

        The source is known by its size and time of change, not by its path:
        folders are moved and copied.
        """
        stat = item.path.stat()
        return dict(
            version=1,
            settings=self.digest,
            source_bytes=stat.st_size,
            source_mtime_ns=stat.st_mtime_ns,
        )

    def recorded(self, item: Item) -> set[str]:
        """Return all files of an item, none if it is not finished."""
        record = self.read(self.path(item))
        header = self.header(item)
        files = record.get('files')
        if not isinstance(files, list) or any(
            record.get(key) != header[key] for key in header
        ):
            return set()
        return set(files)

    def files(self, item: Item) -> set[str]:
        """Return the files of an item that are still there."""
        recorded = self.recorded(item)
        return {file for file in recorded if (self.out / file).exists()}

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Read a JSON file; of none, or a foreign one, nothing.

        What it is about is then done again.
        """
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def clear(self, item: Item) -> set[str]:
        """Take an item as unfinished; return its files that were good."""
        good = self.files(item)
        self.path(item).unlink(missing_ok=True)
        return good

    def drop_foreign_records(self) -> None:
        """Remove records of images that are of other settings.

        A report counts what there is: with ``--overwrite`` and fewer inputs
        it would count the results of two runs as those of one.
        """
        for path in (self.out / FINISHED).rglob('*.json'):
            content = self.read(path)
            if content.get('settings', self.digest) == self.digest:
                continue
            for file in content.get('files', ()):
                if file.startswith(f'{RECORDS}/') and file.endswith('.json'):
                    (self.out / file).unlink(missing_ok=True)

    def write(self, item: Item, files: Iterable[str]) -> None:
        """Take an item as finished, with these files."""
        record = {
            **self.header(item),
            'source': str(item.path),
            'files': sorted(files),
        }
        write_json(self.path(item), record)
