"""Data sets within ``ConcatDataset`` and other wrappers."""

from __future__ import annotations

from collections.abc import Iterator


def leaf_datasets(dataset: object) -> Iterator[object]:
    """Yield the data sets within ``ConcatDataset`` and other wrappers."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from leaf_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset
