"""A folder of auto-labels, read back pair by pair.

Shape shorthand in this module:
    H, W: image size.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from hmsa_mmseg.autolabel.merging import merge
from hmsa_mmseg.datasets.autolabel_files import (
    FAILURES_FILE,
    IMAGES_FILE,
    LABEL_SUFFIX,
    MANIFEST_FILE,
    META_FILE,
    PROB_SUFFIX,
    label_file,
    prob_file,
    read_lines,
    read_meta,
)

# In place of a class, for values that stand for none.
_NO_CLASS = 255


class DamagedPairError(ValueError):
    """A label or its confidence is not what the manifest says."""


@dataclass(frozen=True)
class LabelSet:
    """A folder of auto-labels.

    Attributes:
        folder (Path): That holds the metadata.
        meta (dict): What the labels were made with.
        lines (list[dict]): Of the manifest: one for each image with a label.
        failures (list[dict]): One for each image without.
        missing (list[str]): Names of images still to be labelled.
    """

    folder: Path
    meta: dict[str, Any]
    lines: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    missing: list[str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.meta['settings']['classes'])

    @property
    def has_confidence(self) -> bool:
        """Whether there are files of confidence."""
        return self.meta['settings'].get('prob', 'floor255') != 'none'

    @property
    def layout(self) -> str:
        """Whether sub-folders are kept."""
        return self.meta['settings'].get('layout', 'folders')

    @cached_property
    def names(self) -> dict[str, int]:
        """Place of each name in the manifest."""
        return {line['name']: i for i, line in enumerate(self.lines)}

    @cached_property
    def table(self) -> np.ndarray:
        """Class of each value of the label files, uint8 (256,)."""
        values = self.meta['settings'].get('label_ids')
        values = range(len(self.classes)) if values is None else values
        table = np.full(256, _NO_CLASS, np.uint8)
        table[list(values)] = np.arange(len(self.classes))
        return table

    def read(self, line: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Read the label and the confidence of an image of the manifest.

        Returns:
            tuple[ndarray, ndarray]: Classes, and confidence as in
            :mod:`hmsa_mmseg.datasets.confidence`, both uint8 (H, W).
            Without files of it confidence is 255 everywhere.

        Raises:
            DamagedPairError: If one is missing, damaged, of another size,
                or has values that are no class.
        """
        name, size = line['name'], tuple(line['size'])
        file = label_file(name, self.layout)
        values = self._grey(file, line.get('label_sha256'), size)
        label = self.table[values]
        if (label == _NO_CLASS).any():
            strange = np.unique(values[label == _NO_CLASS])
            raise DamagedPairError(
                f'{file}: values {strange[:10].tolist()} are no class; '
                f'expected the label_ids of {META_FILE}'
            )
        if not self.has_confidence:
            return label, np.full(size, 255, np.uint8)
        file = prob_file(name, self.layout)
        return label, self._grey(file, line.get('prob_sha256'), size)

    def _grey(
        self, file: str, digest: str | None, size: tuple[int, ...]
    ) -> np.ndarray:
        """Read a grey picture of eight bits, uint8 (H, W)."""
        try:
            content = (self.folder / file).read_bytes()
        except OSError as error:
            raise DamagedPairError(f'{file}: {error.strerror}') from error
        found = hashlib.sha256(content).hexdigest()
        if digest not in (None, found):
            raise DamagedPairError(
                f'{file}: {len(content)} bytes with a sha256 of '
                f'{found[:12]}...; the manifest has {digest[:12]}...'
            )
        try:
            # Not Image.open, which refuses 179 megapixels and more.
            with PngImageFile(io.BytesIO(content)) as image:
                mode, (width, height) = image.mode, image.size
                # Not decoded if it is of another size than is known.
                if mode == 'L' and (height, width) == size:
                    return np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise DamagedPairError(f'{file}: no picture: {error}') from error
        if mode != 'L':
            raise DamagedPairError(
                f'{file}: mode {mode}; expected grey, 8 bits'
            )
        raise DamagedPairError(
            f'{file}: {height}x{width}; expected {size[0]}x{size[1]} '
            '(height x width)'
        )

    def unlisted(self) -> list[str]:
        """Labels in the folder that the manifest does not list, sorted.

        Folders within that have metadata of their own are left out: other
        rounds, and the split that the teacher is checked on.
        """
        listed = {label_file(name, self.layout) for name in self.names}
        found = []
        for root, folders, files in os.walk(self.folder):
            folders[:] = [
                name
                for name in folders
                if not os.path.exists(os.path.join(root, name, META_FILE))
            ]
            relative = Path(root).relative_to(self.folder)
            found += [
                path
                for name in files
                if name.endswith(LABEL_SUFFIX)
                and not name.endswith(PROB_SUFFIX)
                and not name.startswith('.')
                and (path := (relative / name).as_posix()) not in listed
            ]
        return sorted(found)


def is_label_set(folder: Path) -> bool:
    """Whether a folder holds labels of ``hmsa label``, not a test run."""
    return (folder / META_FILE).is_file()


def read_label_set(folder: Path) -> LabelSet:
    """Read what a folder of auto-labels says of itself, but no labels.

    What several processes have listed is merged first, if it is not yet.

    Raises:
        FileNotFoundError: If there are no metadata or no manifest.
        OSError: If the lists of several processes cannot be merged.
        ValueError: If the metadata are damaged.
    """
    if not is_label_set(folder):
        raise FileNotFoundError(
            f'{folder / META_FILE} is missing; expected a folder of labels '
            'that hmsa label wrote'
        )
    meta = read_meta(folder)
    classes = meta['settings'].get('classes')
    if not classes:
        raise ValueError(f'{folder / META_FILE}: settings.classes is missing')
    ids = meta['settings'].get('label_ids')
    if ids is not None and len(ids) != len(classes):
        raise ValueError(
            f'{folder / META_FILE}: {len(ids)} label_ids of {len(classes)} '
            'classes; expected one for each'
        )
    manifest = folder / MANIFEST_FILE
    stem, suffix = MANIFEST_FILE.rsplit('.', 1)
    if any(folder.glob(f'{stem}.*-of-*.{suffix}')):
        merge(folder)
    if not manifest.is_file():
        raise FileNotFoundError(
            f'{manifest} is missing; expected a folder in which '
            'hmsa label has labelled images'
        )
    lines = read_lines(manifest)
    failures = read_lines(folder / FAILURES_FILE)
    done = {line['name'] for line in (*lines, *failures)}
    missing = [
        line['name']
        for line in read_lines(folder / IMAGES_FILE)
        if line['name'] not in done
    ]
    return LabelSet(folder, meta, lines, failures, missing)
