"""Which samples an epoch of class-uniform sampling has, in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ClassUniformPlan:
    """Samples of an epoch as a pure function of seed and epoch.

    As ``build_epoch`` of the authors' ``datasets/uniform.py``: for each class
    its number of centroids, each once before one comes again, and images in
    random order for the rest. A class without centroids leaves its share to
    those; the authors' epochs become shorter instead.

    Args:
        seed (int): Not negative.
        size (int): Samples in an epoch.
        images (np.ndarray): (N,) samples to be drawn as images.
        centroids (np.ndarray): (R, 4) sample, x, y and class.
        per_class (np.ndarray): (C,) centroids to draw for each class.
        until_epoch (int, optional): The first epoch of images alone.
            Defaults to None.
        boost_classes (Sequence[int]): Classes whose centroids also count on
            samples that are not among ``images``. Defaults to ().
        boost_until_epoch (int, optional): The first epoch in which they do
            not any more. Defaults to None.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        images: np.ndarray,
        centroids: np.ndarray,
        per_class: np.ndarray,
        until_epoch: int | None = None,
        boost_classes: Sequence[int] = (),
        boost_until_epoch: int | None = None,
    ) -> None:
        self.seed = seed
        self.size = size
        self.images = images
        self.per_class = per_class
        self.until_epoch = until_epoch
        self.boost_until_epoch = boost_until_epoch
        own = np.isin(centroids[:, 0], images)
        boosted = own | np.isin(centroids[:, 3], [*boost_classes])
        self.own = self._by_class(centroids[own])
        self.boosted = self._by_class(centroids[boosted])

    def _by_class(self, centroids: np.ndarray) -> list[np.ndarray]:
        centroids = centroids[np.argsort(centroids[:, 3], kind='stable')]
        ends = np.arange(1, len(self.per_class))
        return np.split(centroids, np.searchsorted(centroids[:, 3], ends))

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch.

        Args:
            epoch (int): Counted from 0.

        Returns:
            np.ndarray: (size, 4) sample, x, y and class; the last three are
            -1 for an image to be cropped anywhere. The same for the same
            arguments, with one version of numpy.
        """
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        drawn = []
        if _before(epoch, self.until_epoch):
            boost = _before(epoch, self.boost_until_epoch)
            found = self.boosted if boost else self.own
            drawn = [
                _draw(rng, centroids, count)
                for centroids, count in zip(found, self.per_class)
                if len(centroids)
            ]
        rest = self.size - sum(map(len, drawn))
        anywhere = np.full((rest, 4), -1)
        anywhere[:, 0] = _draw(rng, self.images, rest)
        plan = np.concatenate([*drawn, anywhere])
        return plan[rng.permutation(self.size)]


def _before(epoch: int, end: int | None) -> bool:
    return end is None or epoch < end


def _draw(
    rng: np.random.Generator, items: np.ndarray, count: int
) -> np.ndarray:
    """Draw without replacement, from the start again when all are drawn."""
    return items[np.resize(rng.permutation(len(items)), count)]
