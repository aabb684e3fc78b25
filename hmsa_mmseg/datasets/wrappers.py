"""``ConcatDataset``, and the data sets within it and other wrappers."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.dataset import dataset_wrapper
from mmseg.registry import DATASETS


# Where configs of mmseg look first.
@DATASETS.register_module()
class ConcatDataset(dataset_wrapper.ConcatDataset):
    """mmengine's, which says what differs where it refuses data sets.

    Args:
        *args: As in :class:`mmengine.dataset.ConcatDataset`.
        **kwargs: Likewise.

    Raises:
        ValueError: If the data sets differ in their ``metainfo``.
    """

    def __init__(self, *args, **kwargs) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (TypeError, ValueError) as error:
            infos = [part.metainfo for part in self.datasets]
            for i, info in enumerate(infos):
                for key in {**infos[0], **info}:
                    first, other = infos[0].get(key), info.get(key)
                    if repr(first) != repr(other):
                        raise ValueError(
                            f'ConcatDataset: {key} of datasets[0] and '
                            f'datasets[{i}] differ: {first} and {other}; '
                            f'expected the same, or ignore_keys=[{key!r}] to '
                            'take that of the first'
                        ) from error
            raise


def leaf_datasets(dataset: object) -> Iterator[object]:
    """Yield the data sets within ``ConcatDataset`` and other wrappers."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from leaf_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset
