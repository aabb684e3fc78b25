"""The two files of an image's auto-label: written, and looked at.

Confidence is written first and the label last: a label that is there says
that both are. It also says, in texts of the PNG file, which teacher and
settings it is of, what the file of its image is known by, and how it was made
if not as asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmsa_mmseg.datasets.autolabel_files import label_file, prob_file
from hmsa_mmseg.datasets.png_files import encode_grey, is_intact, read_header
from hmsa_mmseg.prediction.journal import Source
from hmsa_mmseg.utils import atomic_file

#: Of labels that do not say what their image is known by.
NO_SOURCE = Source(None)
# Bytes that file systems give at a time.
_BLOCK = 4096
_IDENTITY = 'autolabel-identity'
_MODE = 'autolabel-mode'
_IMAGE_BYTES = 'autolabel-image-bytes'
_IMAGE_SHA256 = 'autolabel-image-sha256'


class Pair(NamedTuple):
    """A label, with its confidence if there is to be one, on the disk.

    Attributes:
        size (tuple[int, int]): Height and width of both.
        identity (str): Of teacher and settings, see :mod:`.meta`.
        mode (str): How it was made: as asked for (``whole``); in windows
            (``slide``) or on the ``cpu``, where memory did not last.
        source (Source): Of the image's file, as far as it is known.
    """

    size: tuple[int, int]
    identity: str
    mode: str
    source: Source


class PairFiles:
    """Where the files of images are, in the folder of all labels."""

    def __init__(
        self,
        folder: str | Path,
        layout: str = 'folders',
        has_prob: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.layout = layout
        self.has_prob = has_prob

    def label(self, name: str) -> Path:
        """Path of an image's label."""
        return self.folder / label_file(name, self.layout)

    def prob(self, name: str) -> Path:
        """Path of an image's confidence."""
        return self.folder / prob_file(name, self.layout)

    def paths(self, name: str) -> list[Path]:
        """Paths of all files that an image has, the label last."""
        label = self.label(name)
        return [self.prob(name), label] if self.has_prob else [label]

    def find(self, name: str) -> Pair | None:
        """Look for the whole label of an image.

        All files must be there, have a head and an end, and be of one size.
        """
        headers = [read_header(path) for path in self.paths(name)]
        if None in headers or len({header.size for header in headers}) > 1:
            return None
        label = headers[-1]
        length = label.text.get(_IMAGE_BYTES, '')
        return Pair(
            label.size,
            label.text.get(_IDENTITY, ''),
            label.text.get(_MODE, 'whole'),
            Source(
                int(length) if length.isdecimal() else None,
                label.text.get(_IMAGE_SHA256),
            ),
        )

    def write(
        self,
        name: str,
        label: np.ndarray,
        prob: np.ndarray | None,
        identity: str,
        mode: str = 'whole',
        source: Source = NO_SOURCE,
    ) -> dict[str, str | None]:
        """Write label and confidence of an image, uint8 (h, w).

        See :class:`Pair`. If it fails, what stood there before is gone, but
        nothing is half written. SHA-256 of both are returned.
        """
        text = {
            _IDENTITY: identity,
            _MODE: mode if mode != 'whole' else None,
            _IMAGE_BYTES: source.bytes,
            _IMAGE_SHA256: source.sha256,
        }
        text = {k: str(v) for k, v in text.items() if v is not None}
        contents = [encode_grey(label, text)]
        if self.has_prob:
            contents.insert(0, encode_grey(prob))
        # An earlier label must not vouch for new confidence.
        self.remove(name)
        for path, content in zip(self.paths(name), contents):
            _write(path, content)
        return _hashes(contents)

    def remove(self, name: str) -> None:
        """Remove what there is of an image, the label first."""
        self.label(name).unlink(missing_ok=True)
        # Also without confidence: an earlier run may have had it.
        self.prob(name).unlink(missing_ok=True)

    def hashes(
        self, name: str, lines: Iterable[Mapping[str, Any]] = ()
    ) -> dict[str, str | None] | None:
        """Read the files of an image that was found to their end.

        Gives None if one is damaged; those of a line of a manifest are not.
        """
        contents = [path.read_bytes() for path in self.paths(name)]
        found = _hashes(contents)
        is_known = any(found.items() <= line.items() for line in lines)
        return found if is_known or all(map(is_intact, contents)) else None

    def bytes_on_disk(self, name: str) -> int:
        """Bytes that the files of an image take, in whole blocks."""
        sizes = [os.path.getsize(path) for path in self.paths(name)]
        return sum(-(-size // _BLOCK) * _BLOCK for size in sizes)


def _write(path: Path, content: bytes) -> None:
    for is_last in (False, True):
        try:
            with atomic_file(path) as file:
                file.write(content)
            return
        # A process on another machine has taken the part for one that was
        # left behind: somebody runs the same share twice.
        except FileNotFoundError:
            if is_last:
                raise


def _hashes(contents: list[bytes]) -> dict[str, str | None]:
    *prob, label = (hashlib.sha256(part).hexdigest() for part in contents)
    return dict(label_sha256=label, prob_sha256=prob[0] if prob else None)
