"""All pairs of a folder of auto-labels, counted by several processes.

Shape shorthand in this module:
    H, W: image size, K: classes, T: thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from hmsa_mmseg.datasets.confidence import is_kept

from .report_tree import DamagedPairError, Tree
from .report_truths import Truths
from .statistics import (
    IGNORE,
    TruthCounts,
    count_against,
    count_changes,
    count_labels,
)

# Images that a process counts at a time.
_BLOCK = 8


class Change(NamedTuple):
    """Pixels of an image, and those whose label has changed.

    Attributes:
        pixels (int): All.
        changed (int): Of those.
        kept (int): Pixels that the threshold keeps in both rounds.
        kept_changed (int): Of those.
    """

    pixels: int
    changed: int
    kept: int
    kept_changed: int


class ImageCounts(NamedTuple):
    """What is kept of a single image.

    Attributes:
        name (str): Of the image.
        error (str | None): Why its pair cannot be used.
        values (ndarray | None): int32 (256,): pixels of each confidence.
        truth_error (str | None): Why its true label cannot be used; ''
            if there is none.
        given (ndarray | None): int32 (256,): as ``values``, where the true
            label says something.
        hits (ndarray | None): int32 (256,): the right ones of those.
        change (Change | None): Against the round before.
        change_error (str | None): Why there is none.
    """

    name: str
    error: str | None = None
    values: np.ndarray | None = None
    truth_error: str | None = None
    given: np.ndarray | None = None
    hits: np.ndarray | None = None
    change: Change | None = None
    change_error: str | None = None


@dataclass
class Counts:
    """What is counted of a folder, or of some of its images.

    Attributes:
        pixels (ndarray): int64 (K, 256), by class and confidence.
        truth (TruthCounts): Zero where there is nothing to compare with.
        changes (ndarray): int64 (2, K, K), as of :func:`count_changes`.
        images (list[ImageCounts]): In the order of the manifest.
    """

    pixels: np.ndarray
    truth: TruthCounts
    changes: np.ndarray
    images: list[ImageCounts]

    @classmethod
    def empty(cls, num_classes: int, num_thresholds: int) -> Counts:
        """Count nothing."""
        truth = TruthCounts.empty(num_classes, num_thresholds)
        changes = np.zeros((2, num_classes, num_classes), np.int64)
        return cls(np.zeros_like(truth.given), truth, changes, [])

    def add(self, other: Counts) -> None:
        """Count the images of another as well."""
        self.pixels += other.pixels
        self.truth += other.truth
        self.changes += other.changes
        self.images += other.images

    @property
    def damaged(self) -> list[ImageCounts]:
        """The images whose pair cannot be used."""
        return [image for image in self.images if image.error is not None]

    @property
    def compared(self) -> list[ImageCounts]:
        """The images that have a true label."""
        return [image for image in self.images if image.hits is not None]


class _Pairs:
    """The pairs of a folder, in blocks, for the workers of a DataLoader."""

    def __init__(
        self,
        tree: Tree,
        thresholds: Sequence[float],
        threshold: float,
        truths: Truths | None,
        previous: Tree | None,
    ) -> None:
        self.tree = tree
        self.thresholds = thresholds
        self.keep = is_kept(threshold)
        self.truths = truths
        self.places = {} if truths is None else truths.match(list(tree.names))
        self.previous = previous

    def __len__(self) -> int:
        return -(-len(self.tree.lines) // _BLOCK)

    def __getitem__(self, block: int) -> Counts:
        counts = Counts.empty(len(self.tree.classes), len(self.thresholds))
        for line in self.tree.lines[block * _BLOCK :][:_BLOCK]:
            counts.images.append(self._count(line, counts))
        return counts

    def _count(self, line: dict[str, Any], counts: Counts) -> ImageCounts:
        try:
            label, confidence = self.tree.read(line)
        except DamagedPairError as error:
            return ImageCounts(line['name'], error=str(error))
        pixels = count_labels(label, confidence, len(counts.pixels))
        counts.pixels += pixels
        found = ImageCounts(line['name'], values=_small(pixels))
        if self.truths is not None:
            found = self._compare(found, label, confidence, counts)
        if self.previous is not None:
            found = self._look_back(found, label, confidence, counts)
        return found

    def _compare(self, found, label, confidence, counts):
        if found.name not in self.places:
            return found._replace(truth_error='')
        try:
            truth = self.truths.read(self.places[found.name])
            if truth.shape != label.shape:
                raise ValueError(
                    f'its true label is {truth.shape[0]}x{truth.shape[1]}; '
                    f'expected {label.shape[0]}x{label.shape[1]}'
                )
        except (OSError, ValueError) as error:
            return found._replace(truth_error=str(error))
        counted = count_against(
            truth, label, confidence, len(counts.pixels), self.thresholds
        )
        counts.truth += counted
        return found._replace(
            given=_small(counted.given), hits=_small(counted.hits)
        )

    def _look_back(self, found, label, confidence, counts):
        place = self.previous.names.get(found.name)
        if place is None:
            return found._replace(change_error='it had no label')
        try:
            before, trusted = self.previous.read(self.previous.lines[place])
            if before.shape != label.shape:
                raise DamagedPairError('its label had another size')
        except DamagedPairError as error:
            return found._replace(change_error=str(error))
        kept = self.keep[confidence] & self.keep[trusted]
        changes = count_changes(before, label, kept, len(counts.pixels))
        counts.changes += changes
        pixels, kept_pixels = (int(table.sum()) for table in changes)
        same, kept_same = (int(np.trace(table)) for table in changes)
        change = Change(
            *(pixels, pixels - same, kept_pixels, kept_pixels - kept_same)
        )
        return found._replace(change=change)


class _Shares:
    """Classes of true labels, in blocks, likewise."""

    def __init__(self, truths: Truths) -> None:
        self.truths = truths

    def __len__(self) -> int:
        return -(-len(self.truths) // _BLOCK)

    def __getitem__(self, block: int) -> tuple[np.ndarray, list[str]]:
        counts, errors = np.zeros(256, np.int64), []
        first = block * _BLOCK
        for position in range(first, min(first + _BLOCK, len(self.truths))):
            try:
                label = self.truths.read(position)
            except (OSError, ValueError) as error:
                errors.append(str(error))
            else:
                counts += np.bincount(label.reshape(-1), minlength=256)
        return counts, errors


def count_tree(
    tree: Tree,
    thresholds: Sequence[float],
    threshold: float,
    truths: Truths | None = None,
    previous: Tree | None = None,
    workers: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Counts:
    """Read and count all pairs of a folder.

    Args:
        tree (Tree): The folder.
        thresholds (Sequence[float]): T, rising, the first of them 0.
        threshold (float): What counts as kept against the round before.
        truths (Truths, optional): True labels.
        previous (Tree, optional): The round before.
        workers (int): Processes that read; 0: this one.
        progress (Callable): Is given the number of images that are done.

    Returns:
        Counts: Each image of the manifest is in it, damaged ones with the
        reason. Independent of the number of workers.
    """
    counts = Counts.empty(len(tree.classes), len(thresholds))
    pairs = _Pairs(tree, thresholds, threshold, truths, previous)
    for part in _loader(pairs, workers):
        counts.add(part)
        progress(len(part.images))
    return counts


def count_classes(
    truths: Truths,
    workers: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, list[str]]:
    """Count the pixels of each class in the labels of a data set.

    Returns:
        tuple[ndarray, list[str]]: int64 (K,), and what could not be read.
    """
    total, failed = np.zeros(256, np.int64), []
    left = len(truths)
    for counts, errors in _loader(_Shares(truths), workers):
        total += counts
        failed += errors
        progress(min(_BLOCK, left))
        left -= _BLOCK
    assert truths.num_classes <= IGNORE
    return total[: truths.num_classes], failed


def _small(table: np.ndarray) -> np.ndarray:
    """Of all classes; kept of each image, of which there may be many."""
    return table.sum(0).astype(np.int32)


def _loader(dataset: Any, workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=min(workers, len(dataset)),
        collate_fn=_same,
        # Its own: whoever draws from the global one is not disturbed.
        generator=torch.Generator(),
    )


def _same(item: Any) -> Any:
    return item
