"""True or coarse labels of a config's data set, by the names of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config

from hmsa_mmseg.autolabel.config_datasets import build_leaves, images_of
from hmsa_mmseg.autolabel.statistics import IGNORE
from hmsa_mmseg.datasets.centroids import find_label_loader


class Truths:
    """Labels of a data set of a config, ``config:<loader>``.

    An OSError or ValueError is raised if there is no such data set, its
    classes are others, or nothing in its pipeline loads labels.
    """

    def __init__(self, cfg: Config, key: str, classes: Sequence[str]) -> None:
        self.key = key
        self.classes = tuple(classes)
        self.leaves = build_leaves(cfg, key)
        for leaf in self.leaves:
            found = tuple(leaf.metainfo.get('classes') or ())
            if found != self.classes:
                raise ValueError(
                    f'{key} of {cfg.filename}: its {len(found)} classes '
                    f'{found[:5]} are not the {len(classes)} of the labels, '
                    f'{self.classes[:5]}'
                )
        self.loaders = [find_label_loader(leaf) for leaf in self.leaves]
        #: Place of each label: data set and index there.
        self.items: list[tuple[int, int]] = []
        self.names: list[str] = []
        self.images: list[str] = []
        for leaf_id, leaf in enumerate(self.leaves):
            for image in images_of(leaf):
                self.items.append((leaf_id, image.index))
                self.names.append(image.name)
                self.images.append(image.path)

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.items)

    def match(self, names: Sequence[str]) -> dict[str, int]:
        """Find the label of each image, by names without suffix.

        The folder that names are relative to need not be the same: names
        belong together where all parts of their paths that both have agree,
        from the end on. A name that fits several labels has none, and a label
        that several names fit is only of the one that is the same. What has
        no label is left out.
        """
        exact: dict[str, list[int]] = {}
        by_base: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            exact.setdefault(name, []).append(i)
            by_base.setdefault(name.rsplit('/', 1)[-1], []).append(i)
        found = {}
        for name in names:
            fits = exact.get(name) or [
                i
                for i in by_base.get(name.rsplit('/', 1)[-1], ())
                if _same_end(name, self.names[i])
            ]
            if len(fits) == 1:
                found[name] = fits[0]
        times = Counter(found.values())
        return {
            name: i
            for name, i in found.items()
            if times[i] == 1 or self.names[i] == name
        }

    def read(self, position: int) -> np.ndarray:
        """Read a label, uint8 (H, W): classes, 255 where it says nothing.

        An OSError or ValueError is raised if it cannot be read, or has values
        that are neither.
        """
        leaf_id, index = self.items[position]
        leaf = self.leaves[leaf_id]
        results = leaf.get_data_info(index)
        path = results.get('seg_map_path')
        for transform in self.loaders[leaf_id]:
            results = transform(results)
        if not results or results.get('gt_seg_map') is None:
            raise ValueError(f'{path}: no label was loaded')
        label = results['gt_seg_map']
        known = label != getattr(leaf, 'ignore_index', IGNORE)
        known &= label != IGNORE
        strange = np.unique(label[known & (label >= len(self.classes))])
        if strange.size:
            raise ValueError(
                f'{path}: values {strange[:10].tolist()} are no class; '
                f'expected 0 to {len(self.classes) - 1}, or {IGNORE}'
            )
        return np.where(known, label, IGNORE).astype(np.uint8)


def _same_end(first: str, second: str) -> bool:
    parts = zip(first.split('/')[::-1], second.split('/')[::-1])
    return all(a == b for a, b in parts)
