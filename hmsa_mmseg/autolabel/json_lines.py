"""Writing files of one JSON object a line, as ``read_lines`` reads them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hmsa_mmseg.utils import atomic_file


class LineWriter:
    """Adds lines to a file, which need not exist, from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = path.open('ab')
        self._is_torn = _ends_torn(path)

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        text = json.dumps(line).encode() + b'\n'
        with self._lock:
            # Its rest is lost; the next one begins anew.
            start = b'\n' if self._is_torn else b''
            self._is_torn = True
            self._file.write(start + text)
            self._file.flush()
            self._is_torn = False

    def close(self) -> None:
        """Bring all lines to the disk and close the file."""
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()


def _ends_torn(path: Path) -> bool:
    with path.open('rb') as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b'\n'


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file whole or not at all."""
    with atomic_file(path) as file:
        for line in lines:
            file.write(json.dumps(line).encode() + b'\n')
