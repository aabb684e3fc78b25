"""A data set whose samples can be asked for with a place to crop."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from mmseg.registry import DATASETS, TRANSFORMS

from .centroid_index import load_or_build
from .centroids import LabelCentroids, find_label_loader


class SampleIndex(NamedTuple):
    """What a sampler asks for: more than a number.

    Everything that varies from epoch to epoch travels with the index, so that
    workers, persistent or not, need no state of their own.
    """

    index: int
    # Of all random choices made for this sample.
    seed: int
    # (x, y) in pixels of the image as it is loaded.
    centroid: tuple[int, int] | None = None
    class_id: int | None = None


@DATASETS.register_module()
class ClassUniformDataset:
    """Wraps a dataset for :class:`ClassUniformSampler`.

    Indexed with a :class:`SampleIndex`, it seeds ``random``, ``numpy.random``
    and torch's CPU generator for this one sample, and puts the centroid and
    its class into ``results['class_centroid']`` and ``results['class_id']``,
    where :class:`CentroidRandomCrop` finds them. A sample is then the same
    whichever process loads it, and when. Indexed with a number, it is the
    wrapped dataset.

    Args:
        dataset (dict | BaseDataset): Any dataset of mmseg, also in
            ``ConcatDataset``, ``RepeatDataset`` and ``ClassBalancedDataset``,
            nested in any order. The pipeline stays with the wrapped dataset.
        label_loader (list[dict], optional): Transforms that load a label
            (``gt_seg_map``) for its centroids. None: what loads annotations in
            each wrapped dataset's own pipeline (its first ``LoadAnnotations``,
            ``LoadSegLabels`` or similar), so that label maps are applied as in
            training. Needed where later transforms change the label's classes.
        lazy_init (bool): Whether to leave listing the samples to
            ``full_init``.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        label_loader: list[dict] | None = None,
        lazy_init: bool = False,
    ) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.dataset = dataset
        self.label_loader = label_loader and [
            TRANSFORMS.build(cfg) if isinstance(cfg, dict) else cfg
            for cfg in label_loader
        ]
        self._metainfo = dataset.metainfo
        self.METAINFO = getattr(dataset, 'METAINFO', self._metainfo)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """dict: That of the wrapped dataset."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """List the samples of the wrapped dataset.

        Raises:
            TypeError: If one of the wrapped datasets is a wrapper that does
                not tell which sample an index stands for.
        """
        if self._fully_initialized:
            return
        self.dataset.full_init()
        self.leaves: list[BaseDataset] = []
        # (N, 2): which leaf holds a sample, and at which index.
        self._places = self._resolve(self.dataset)
        self._fully_initialized = True

    def _resolve(self, dataset: BaseDataset | ConcatDataset) -> np.ndarray:
        if isinstance(dataset, ConcatDataset):
            return np.concatenate(
                [self._resolve(part) for part in dataset.datasets]
            )
        if hasattr(dataset, 'dataset'):
            if not hasattr(dataset, '_get_ori_dataset_idx'):
                raise TypeError(
                    f'ClassUniformDataset cannot wrap a '
                    f'{type(dataset).__name__}: it does not tell which sample '
                    'an index stands for; expected a dataset of mmseg, or '
                    'ConcatDataset, RepeatDataset or ClassBalancedDataset'
                )
            indices = range(len(dataset))
            inner = [dataset._get_ori_dataset_idx(k) for k in indices]
            return self._resolve(dataset.dataset)[inner]
        self.leaves.append(dataset)
        place = np.full((len(dataset), 2), len(self.leaves) - 1)
        place[:, 1] = range(len(dataset))
        return place

    def __len__(self) -> int:
        """Return the number of samples of the wrapped dataset."""
        self.full_init()
        return len(self._places)

    def __getitem__(self, index: int | SampleIndex) -> object:
        """Return what the wrapped dataset's pipeline makes of a sample."""
        self.full_init()
        if not isinstance(index, SampleIndex):
            # Loops that iterate without asking for the length rely on it.
            if not -len(self) <= index < len(self):
                raise IndexError(f'sample {index} of {len(self)}')
            return self.dataset[index]
        with _seeded(index.seed):
            if index.centroid is None:
                return self.dataset[index.index]
            return self._load(index)

    def _load(self, index: SampleIndex) -> object:
        leaf, position = self._place(index.index)
        results = leaf.get_data_info(position)
        results['class_centroid'] = index.centroid
        results['class_id'] = index.class_id
        sample = leaf.pipeline(results)
        if sample is None:
            # As all datasets of mmengine: another one, chosen at random, and
            # an error after `max_refetch` of them.
            sample = leaf[leaf._rand_another()]
        return sample

    def _place(self, index: int) -> tuple[BaseDataset, int]:
        self.full_init()
        leaf_id, position = self._places[index]
        return self.leaves[leaf_id], int(position)

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of a sample."""
        leaf, position = self._place(index)
        return leaf.get_data_info(position)

    def parts(self) -> np.ndarray:
        """Tell the datasets of a ``ConcatDataset`` apart.

        Returns:
            np.ndarray: (N,) position of each sample's dataset among them;
            all 0 if it is another dataset.
        """
        self.full_init()
        if not isinstance(self.dataset, ConcatDataset):
            return np.zeros(len(self), np.int64)
        sizes = [len(part) for part in self.dataset.datasets]
        return np.repeat(np.arange(len(sizes)), sizes)

    def labels(self, tile_size: int) -> tuple[LabelCentroids, np.ndarray]:
        """Return what finds the centroids in the labels.

        Returns:
            tuple[LabelCentroids, np.ndarray]: One entry for each label, also
            if it is sampled repeatedly; and (N,) which of them each sample
            has.
        """
        self.full_init()
        items, inverse = np.unique(self._places, axis=0, return_inverse=True)
        loaders = [
            self.label_loader or find_label_loader(leaf)
            for leaf in self.leaves
        ]
        labels = LabelCentroids(self.leaves, items, loaders, tile_size)
        # numpy 2.0 gives it one more dimension.
        return labels, inverse.reshape(-1)

    def class_centroids(
        self, tile_size: int, cache_dir: str | None = None
    ) -> np.ndarray:
        """Return the centroids of all samples; see :func:`load_or_build`.

        Returns:
            np.ndarray: (R, 4) int64, columns sample, x, y and class. A sample
            that is repeated has its centroids as often.
        """
        labels, label_of = self.labels(tile_size)
        rows = load_or_build(labels, cache_dir).astype(np.int64)
        # Samples in the order of their labels; those of label k begin at
        # first[k].
        samples = np.argsort(label_of, kind='stable')
        uses = np.bincount(label_of, minlength=len(labels.items))
        first = np.cumsum(uses) - uses
        repeats = uses[rows[:, 0]]
        copy_of = np.repeat(np.arange(len(rows)), repeats)
        start = np.cumsum(repeats) - repeats
        nth = np.arange(len(copy_of)) - start[copy_of]
        rows = rows[copy_of]
        rows[:, 0] = samples[first[rows[:, 0]] + nth]
        return rows


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what transforms draw from, for as long as the context lasts."""
    # Restored afterwards: without workers this is the process that trains,
    # whose dropout must not follow the samples. For the same reason not
    # torch.manual_seed, which seeds CUDA as well.
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
