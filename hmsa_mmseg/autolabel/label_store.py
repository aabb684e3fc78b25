"""Labels on the disk: which are finished, and how one is written.

The journal of labels is the labels themselves: each carries the identity of
its teacher and what its image is known by, is written after its confidence,
and is whole or absent. What cannot be labelled is in ``failures.jsonl``.

Shape shorthand in this module:
    K: classes, h, w: size of an image as its loader gives it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.structures import SegDataSample

from hmsa_mmseg.datasets.autolabel_files import (
    FAILURES_FILE,
    MANIFEST_FILE,
    shard_file,
)
from hmsa_mmseg.datasets.confidence import encode_confidence
from hmsa_mmseg.prediction.errors import (
    BadInputError,
    PredictionError,
    SpaceError,
)
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.prediction.journal import is_same
from hmsa_mmseg.prediction.loading import Loaded
from hmsa_mmseg.prediction.products import classes_of
from hmsa_mmseg.prediction.shards import Shard
from hmsa_mmseg.utils.files import named_errors

from .merging import files_of, manifest_line
from .meta import identities_in, identity_of

#: Images whose mean tells how much the others will take.
SAMPLE = 20


class LineWriter:
    """Adds lines to a file, which need not exist, from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._path, self._file = path, path.open('ab+')
        self._is_torn = False
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            self._is_torn = self._file.read() != b'\n'

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        text = json.dumps(line).encode() + b'\n'
        with self._lock, named_errors(self._path):
            # Its rest is lost; the next one begins anew.
            start = b'\n' if self._is_torn else b''
            self._is_torn = True
            self._file.write(start + text)
            self._file.flush()
            self._is_torn = False

    def close(self) -> None:
        """Bring all lines to the disk and close the file."""
        with named_errors(self._path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


class LabelStore:
    """Writes labels of one process, and lists them, from several threads.

    ``written`` and ``failed`` count images; the run stops at ``max_errors``
    of the latter.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any],
        shard: Shard,
        max_errors: int,
    ) -> None:
        self.files = files_of(folder, meta)
        self.identity = identity_of(meta)
        self.accepted = identities_in(meta)
        # (K,), what stands for each class in the files.
        self.label_ids = np.uint8(meta['settings']['label_ids'])
        self.shard = shard
        self.max_errors = max_errors
        self.written = 0
        self.failed = 0
        #: Images to be labelled, if space on the disk is to be foreseen.
        self.expected: int | None = None
        self._sampled = 0  # bytes of the first SAMPLE images
        self._lock = threading.Lock()
        share = shard.index, shard.count
        self._manifest, self._failures = (
            LineWriter(folder / shard_file(name, *share))
            for name in (MANIFEST_FILE, FAILURES_FILE)
        )

    def is_done(self, item: Item) -> bool:
        """Whether an image has a whole label, of it and an accepted kind."""
        pair = self.files.find(item.name)
        if pair is None or pair.identity not in self.accepted:
            return False
        since = self.files.label(item.name).stat().st_mtime_ns
        return is_same(item.path, pair.source, since)

    def write(
        self, item: Item, image: Loaded, result: SegDataSample, mode: str
    ) -> None:
        """Write the label of an image, then list it.

        Raises:
            SpaceError: If the rest will not fit on the disk.
        """
        prob = encode_confidence(result.confidence.data[0].numpy())
        label = self.label_ids[classes_of(result)]
        hashes = self.files.write(
            item.name, label, prob, self.identity, mode, image.source
        )
        path = os.path.abspath(item.path)
        self._manifest.add(
            manifest_line(item.name, path, label.shape, hashes, mode)
        )
        with self._lock:
            self.written += 1
            if self.expected is not None and self.written <= SAMPLE:
                self._sampled += self.files.bytes_on_disk(item.name)
                if self.written == SAMPLE:
                    self._check_space()

    def _check_space(self) -> None:
        folder = self.files.folder
        mean = self._sampled / SAMPLE
        left = (self.expected - SAMPLE) * self.shard.count
        free = shutil.disk_usage(folder).free
        if mean * left > free:
            raise SpaceError(
                f'{folder}: the first {SAMPLE} images take '
                f'{mean / 1e6:.3f} MB each, so {left} more take '
                f'{mean * left / 1e9:.3f} GB; {free / 1e9:.3f} GB are free. '
                'Expected more space, or --ignore-space. What is done stays: '
                'the same command goes on'
            )

    def fail(self, item: Item, error: BadInputError) -> None:
        """List an image that cannot be labelled; it has no label then.

        Raises:
            PredictionError: If too many have failed.
        """
        self.files.remove(item.name)
        self._failures.add(
            dict(
                name=item.name,
                image=os.path.abspath(item.path),
                reason=error.reason,
                error=' '.join(str(error).split()),
            )
        )
        self.failed += 1
        if self.failed >= self.max_errors:
            raise PredictionError(
                f'{self.failed} images could not be labelled, the last: '
                f'{error}; expected fewer, or --max-errors above '
                f'{self.max_errors}. They are listed in '
                f'{self.files.folder}/{FAILURES_FILE[:-6]}.*; what is done '
                'stays'
            )

    def close(self) -> None:
        """Bring the lists to the disk."""
        try:
            self._manifest.close()
        finally:
            self._failures.close()
