"""All pairs of a folder of auto-labels, counted by several processes.

Shape shorthand in this module:
    H, W: image size, K: classes, T: thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from hmsa_mmseg.autolabel.statistics import (
    LEVELS,
    TruthCounts,
    count_against,
    coverage,
)
from hmsa_mmseg.datasets.confidence import is_kept
from hmsa_mmseg.utils.confusion import divide, joint_counts

from .label_set import DamagedPairError, LabelSet
from .label_truths import Truths

# Images that a process counts at a time.
_BLOCK = 8


@dataclass
class Counts:
    """What is counted of a folder, or of some of its images.

    Attributes:
        pixels (ndarray): int64 (K, 256), by class and confidence.
        truth (TruthCounts): Zero where there is nothing to compare with.
        changes (ndarray): int64 (2, K, K): pixels by the class that they had
            in the round before and that they have, all and those that are
            kept in both.
        images (list[dict]): In the order of the manifest: ``name`` and, as
            far as they are known or there is one, ``error``, why the pair
            cannot be used; ``coverage``, the share of pixels that is kept;
            ``compared``, True beside a true label, or ``truth_error``, ''
            if there is none; ``changed`` and ``kept_changed``, shares of the
            pixels that had another class in the round before, of all and of
            those that are kept in both, or ``change_error``. Shares are nan
            without pixels.
    """

    pixels: np.ndarray
    truth: TruthCounts
    changes: np.ndarray
    images: list[dict[str, Any]]

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


@dataclass
class _Counter:
    """Counts some of the images of a folder; see :func:`count_labels`."""

    labels: LabelSet
    thresholds: Sequence[float]
    threshold: float
    truths: Truths | None
    previous: LabelSet | None

    def __post_init__(self) -> None:
        self.num_classes = len(self.labels.classes)
        self.places = {}
        if self.truths is not None:
            self.places = self.truths.match(list(self.labels.names))

    def __call__(self, block: Sequence[int]) -> Counts:
        counts = Counts.empty(self.num_classes, len(self.thresholds))
        for i in block:
            line = self.labels.lines[i]
            found = dict(name=line['name'])
            counts.images.append(found)
            try:
                pair = self.labels.read(line)
            except DamagedPairError as error:
                found['error'] = str(error)
                continue
            pixels = joint_counts(pair, (self.num_classes, LEVELS))
            counts.pixels += pixels
            share = coverage(pixels.sum(0), [self.threshold])[0]
            found['coverage'] = float(share)
            if self.truths is not None:
                found.update(self._compare(found['name'], *pair, counts))
            if self.previous is not None:
                found.update(self._look_back(found['name'], *pair, counts))
        return counts

    def _compare(self, name, label, confidence, counts) -> dict[str, Any]:
        if name not in self.places:
            return dict(truth_error='')
        try:
            truth = self.truths.read(self.places[name])
            if truth.shape != label.shape:
                raise ValueError(
                    f'its true label is {truth.shape[0]}x{truth.shape[1]}; '
                    f'expected {label.shape[0]}x{label.shape[1]}'
                )
        except (OSError, ValueError) as error:
            return dict(truth_error=str(error))
        counts.truth += count_against(
            truth, label, confidence, self.num_classes, self.thresholds
        )
        return dict(compared=True)

    def _look_back(self, name, label, confidence, counts) -> dict[str, Any]:
        place = self.previous.names.get(name)
        if place is None:
            return dict(change_error='it had no label')
        try:
            before, trusted = self.previous.read(self.previous.lines[place])
        except DamagedPairError as error:
            return dict(change_error=str(error))
        if before.shape != label.shape:
            return dict(change_error='its label had another size')
        keep = is_kept(self.threshold)
        kept = keep[confidence] & keep[trusted]
        changes = [
            joint_counts(pair, (self.num_classes, self.num_classes))
            for pair in ((before, label), (before[kept], label[kept]))
        ]
        counts.changes += changes
        changed, kept_changed = map(share_changed, changes)
        return dict(changed=changed, kept_changed=kept_changed)


def share_changed(changes: np.ndarray) -> float:
    """Share of the pixels of a (K, K) whose class is another; nan if none."""
    return float(1 - divide(np.trace(changes), changes.sum()))


def count_labels(
    labels: LabelSet,
    thresholds: Sequence[float],
    threshold: float,
    truths: Truths | None = None,
    previous: LabelSet | None = None,
    workers: int = 0,
    progress: Callable[[int], Any] = lambda more: None,
) -> Counts:
    """Read and count all pairs of a folder, in so many processes.

    The T thresholds rise from 0; ``threshold`` says what is kept of an image.
    ``progress`` is given how many more images are done.
    """
    counts = Counts.empty(len(labels.classes), len(thresholds))
    counter = _Counter(labels, thresholds, threshold, truths, previous)
    for part in _in_blocks(counter, len(labels.lines), workers, progress):
        counts.add(part)
    return counts


def count_classes(
    truths: Truths,
    workers: int = 0,
    progress: Callable[[int], Any] = lambda more: None,
) -> tuple[np.ndarray, list[str]]:
    """Count pixels of each class, (K,), and say what could not be read."""
    count = partial(_count_classes, truths)
    total, failed = np.zeros(256, np.int64), []
    for counts, errors in _in_blocks(count, len(truths), workers, progress):
        total += counts
        failed += errors
    return total[: len(truths.classes)], failed


def _count_classes(
    truths: Truths, block: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    counts, errors = np.zeros(256, np.int64), []
    for position in block:
        try:
            counts += joint_counts([truths.read(position)], [256])
        except (OSError, ValueError) as error:
            errors.append(str(error))
    return counts, errors


def _in_blocks(
    function: Callable[[Sequence[int]], Any],
    count: int,
    workers: int,
    progress: Callable[[int], Any],
) -> Iterator[Any]:
    """Call a function for all numbers, some at a time, in their order."""
    loader = DataLoader(
        range(count),
        batch_size=_BLOCK,
        # What a process does with a block of numbers.
        collate_fn=function,
        num_workers=min(workers, -(-count // _BLOCK)),
        # Its own: whoever draws from the global one is not disturbed.
        generator=torch.Generator(),
    )
    for block, result in enumerate(loader):
        yield result
        progress(min(_BLOCK, count - block * _BLOCK))
