"""An order of samples in which every class has its share."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from hmsa_mmseg.known_keys import check_keys

from ..class_uniform_dataset import ClassUniformDataset, SampleIndex


@DATA_SAMPLERS.register_module()
class ClassUniformSampler(Sampler):
    """Draws a share of each epoch around centroids, equally for all classes.

    As the authors' ``datasets/uniform.py``: of the ``n`` samples of an epoch,
    ``k = int(n * pct / num_classes)`` are drawn for each class, around
    centroids of that class (each once before one comes again), and the rest
    are different images with a random crop. For Cityscapes, 78 for each
    of 19 classes and 1493 others. Unlike theirs, the order is a function of
    ``seed`` and epoch alone: the same for all processes, of which each takes
    its part, and the same after a resume.

    Args:
        dataset (ClassUniformDataset): mmengine passes the dataloader's.
        seed (int, optional): mmengine passes ``randomness.seed``. None: one
            drawn for all processes.
        pct (float): Share of the class-uniform samples, 0 to 1. At 0 no label
            is read and every epoch is all images in random order. Defaults to
            0.5, as the authors'.
        tile_size (int): Side in pixels of the tiles that give a centroid for
            each class in them. Defaults to 1024, as the authors'.
        cache_dir (str, optional): Folder that keeps the centroids from run to
            run. None: ``$XDG_CACHE_HOME/hmsa_mmseg/centroids``, by default in
            ``~/.cache``.
        infinite (bool): True for ``IterBasedTrainLoop``, where the sampler
            goes from epoch to epoch by itself; False for
            ``EpochBasedTrainLoop``.
        bias (Sequence[float], optional): Factor of ``k`` for each class. The
            length of the epoch does not change.
        boost (dict, optional): ``dict(datasets=(1,), classes=(14, 15, 16),
            until_epoch=None)``: of these datasets of a ``ConcatDataset``, by
            position, only centroids of these classes are drawn, in epochs
            before ``until_epoch``, and they do not count for ``n``. The
            authors add coarsely labelled images for rare classes this way
            (``--coarse_boost_classes``).
        until_epoch (int, optional): Epochs before this one, counted from 0,
            are class-uniform, later ones are images in random order. (The
            authors' ``--max_cu_epoch`` has no effect.) None: all are.
        round_up (bool): Whether to repeat samples so that all processes get
            the same number, where not ``infinite``.

    Raises:
        TypeError: If ``dataset`` is not a :class:`ClassUniformDataset`.
        ValueError: If an option is out of its range, or if no label has a
            pixel of any class.
    """

    def __init__(
        self,
        dataset: ClassUniformDataset,
        seed: int | None = None,
        pct: float = 0.5,
        tile_size: int = 1024,
        cache_dir: str | None = None,
        infinite: bool = False,
        bias: Sequence[float] | None = None,
        boost: dict | None = None,
        until_epoch: int | None = None,
        round_up: bool = True,
    ) -> None:
        # Not isinstance: num_batch_per_epoch of mmengine wraps the dataset.
        if not hasattr(dataset, 'class_centroids'):
            raise TypeError(
                f'ClassUniformSampler got a {type(dataset).__name__}; '
                "expected dataset=dict(type='ClassUniformDataset', "
                'dataset=dict(...))'
            )
        if not 0 <= pct <= 1:
            raise ValueError(f'pct={pct}; expected a share from 0 to 1')
        if not (isinstance(tile_size, int) and tile_size > 0):
            raise ValueError(f'tile_size={tile_size!r}; expected 1 or more')
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.infinite = infinite
        self.epoch = 0
        self._skip = 0

        parts = dataset.parts()
        boost = _check_boost(boost, dataset)
        images = np.flatnonzero(~np.isin(parts, boost['datasets']))
        # The lengths differ with mmengine's num_batch_per_epoch.
        sliced = len(dataset) != len(parts)
        self.size = len(dataset) if sliced else len(images)
        mine = self.size if round_up else self.size - self.rank
        self.num_samples = math.ceil(mine / self.world_size)

        per_class = self._count_per_class(pct, bias)
        centroids = np.empty((0, 4), np.int64)
        if per_class.any():
            centroids = dataset.class_centroids(tile_size, cache_dir)
            self._check_centroids(centroids)
        self._images = images
        self._per_class = per_class
        self._until_epoch = until_epoch
        self._boost_until_epoch = boost['until_epoch']
        own = np.isin(centroids[:, 0], images)
        boosted = own | np.isin(centroids[:, 3], [*boost['classes']])
        self._own = self._by_class(centroids[own])
        self._boosted = self._by_class(centroids[boosted])

    def _by_class(self, centroids: np.ndarray) -> list[np.ndarray]:
        centroids = centroids[np.argsort(centroids[:, 3], kind='stable')]
        ends = np.arange(1, len(self._per_class))
        return np.split(centroids, np.searchsorted(centroids[:, 3], ends))

    def plan(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch, for all processes.

        Those of each class come first, then images; all are shuffled. A class
        without centroids leaves its share to images; the authors' epochs
        become shorter instead.

        Args:
            epoch (int): Counted from 0.

        Returns:
            np.ndarray: (size, 4) sample, x, y and class; the last three are
            -1 for an image to be cropped anywhere. The same for the same
            data, options, seed and version of numpy.
        """
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        drawn = []
        if _before(epoch, self._until_epoch):
            boost = _before(epoch, self._boost_until_epoch)
            found = self._boosted if boost else self._own
            drawn = [
                _draw(rng, centroids, count)
                for centroids, count in zip(found, self._per_class)
                if len(centroids)
            ]
        rest = self.size - sum(map(len, drawn))
        anywhere = np.full((rest, 4), -1)
        anywhere[:, 0] = _draw(rng, self._images, rest)
        plan = np.concatenate([*drawn, anywhere])
        return plan[rng.permutation(self.size)]

    def _count_per_class(
        self, pct: float, bias: Sequence[float] | None
    ) -> np.ndarray:
        if pct == 0:
            return np.zeros(0, np.int64)
        classes = self.dataset.metainfo.get('classes')
        if not classes:
            raise ValueError(
                "the dataset's metainfo has no classes; ClassUniformSampler "
                'expects metainfo=dict(classes=...)'
            )
        factors = np.ones(len(classes)) if bias is None else np.asarray(bias)
        if factors.shape != (len(classes),) or not (factors >= 0).all():
            raise ValueError(
                f'bias={bias!r}; expected {len(classes)} factors, one for '
                'each class, not negative'
            )
        counts = (int(self.size * pct / len(classes)) * factors).astype(int)
        if counts.sum() > self.size:
            raise ValueError(
                f'bias={bias!r} asks for {counts.sum()} class-uniform samples '
                f'in epochs of {self.size}; expected a smaller bias or pct'
            )
        if not counts.any():
            _warn(
                f'pct={pct} of {self.size} samples is less than one for each '
                f'of {len(classes)} classes: sampling is not class-uniform'
            )
        return counts

    def _check_centroids(self, centroids: np.ndarray) -> None:
        if not len(centroids):
            raise ValueError(
                'no label has a pixel of any class; expected labels with the '
                "classes of the dataset's metainfo"
            )
        names = self.dataset.metainfo['classes']
        found = {*centroids[:, 3].tolist()}
        absent = [name for k, name in enumerate(names) if k not in found]
        if absent:
            _warn(
                f'no label has a pixel of these classes: {absent}; their '
                'share of each epoch goes to images in random order'
            )

    def __iter__(self) -> Iterator[SampleIndex]:
        """Iterate over this process's samples: of one epoch, or for ever."""
        start, self._skip = self._skip, 0
        position = start * self.world_size + self.rank
        if self.infinite:
            return self._all_epochs(position)
        stop = self.rank + self.num_samples * self.world_size
        return self._epoch(self.epoch, range(position, stop, self.world_size))

    def _all_epochs(self, position: int) -> Iterator[SampleIndex]:
        epoch, position = divmod(position, self.size)
        while True:
            positions = range(position, self.size, self.world_size)
            yield from self._epoch(epoch, positions)
            # The next of this process lies in the next epoch.
            position += len(positions) * self.world_size - self.size
            epoch += 1

    def _epoch(self, epoch: int, positions: range) -> Iterator[SampleIndex]:
        plan = self.plan(epoch)
        for position in positions:
            # Rounding up goes on with the first samples of the same epoch.
            index, x, y, class_id = plan[position % self.size].tolist()
            seed = _item_seed(self.seed, epoch, position)
            if class_id < 0:
                yield SampleIndex(index, seed)
            else:
                yield SampleIndex(index, seed, (x, y), class_id)

    def __len__(self) -> int:
        """Return the number of this process's samples in one epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate over; of no effect if ``infinite``."""
        if not self.infinite and epoch != self.epoch:
            self.epoch = epoch
            self._skip = 0

    def skip(self, num_samples: int) -> None:
        """Leave out samples, without loading them, when resuming.

        To be called before iterating.

        Args:
            num_samples (int): How many of this process's samples to leave
                out, counted from the start of training; not negative. If not
                ``infinite``, whole epochs of ``len(self)`` are left out by
                setting the epoch, and the rest at the next iteration.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples={num_samples}; expected 0 or more')
        self._skip = num_samples
        if not self.infinite:
            self.epoch, self._skip = divmod(num_samples, self.num_samples)


def _before(epoch: int, end: int | None) -> bool:
    return end is None or epoch < end


def _draw(
    rng: np.random.Generator, items: np.ndarray, count: int
) -> np.ndarray:
    """Draw without replacement, from the start again when all are drawn."""
    return items[np.resize(rng.permutation(len(items)), count)]


def _item_seed(seed: int, epoch: int, position: int) -> int:
    """Return 63 bits for a position in the epoch of all processes."""
    text = f'{seed}/{epoch}/{position}'.encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def _check_boost(boost: dict | None, dataset: ClassUniformDataset) -> dict:
    checked = dict(datasets=(), classes=(), until_epoch=None)
    check_keys('boost', boost or (), checked)
    checked.update(boost or {})
    num_parts = int(dataset.parts().max()) + 1
    num_classes = len(dataset.metainfo.get('classes') or ())
    for key, stop in (('datasets', num_parts), ('classes', num_classes)):
        if not {*checked[key]} <= {*range(stop)}:
            raise ValueError(
                f'boost.{key}={checked[key]}; expected numbers from 0 to '
                f'{stop - 1}'
            )
    if len({*checked['datasets']}) == num_parts:
        raise ValueError(
            f'boost.datasets={checked["datasets"]} are all there are; '
            'expected one dataset of a ConcatDataset that is not boosted'
        )
    return checked


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
