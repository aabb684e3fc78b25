"""Generated scenes of which only a few have fine labels.

As Cityscapes is: ``train``, ``val`` and ``test`` with fine labels, the larger
``train_extra`` with coarse polygons. Its true labels lie in ``gtTrue``, which
Cityscapes does not have: they show how much there was to be gained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

# A program of its own as well.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autolabel_demo.coarse import coarse_polygons
from demo import street_scenes

EXTRA = 'train_extra'
#: Height and width in px, as the configs expect.
SIZE = (128, 256)


def generate(out: Path, seed: int, num_images: dict[str, int]) -> None:
    """Write the data set; what is there already is written again.

    Args:
        out (Path): Folder of the data set.
        seed (int): Of the scenes.
        num_images (dict[str, int]): Number of images of each split of
            :data:`demo.street_scenes.SPLITS`.
    """
    true = out / 'gtTrue' / EXTRA
    if not true.exists():
        street_scenes.generate(out, seed, num_images, SIZE)
        true.parent.mkdir()
        (out / 'gtFine' / EXTRA).rename(true)
    for path in sorted(true.rglob('*_gtFine_labelIds.png')):
        name = path.name.replace('_gtFine_', '_gtCoarse_')
        coarse = out / 'gtCoarse' / EXTRA / path.parent.name / name
        coarse.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            polygons = coarse_polygons(np.array(image))
        Image.fromarray(polygons).save(coarse)


def main(arguments: list[str]) -> None:
    """Generate: folder, seed, number of images of each split.

    A program of its own, as drawing hundreds of scenes takes a while.
    """
    out, seed, *counts = arguments
    splits = dict(zip(street_scenes.SPLITS, map(int, counts)))
    generate(Path(out), int(seed), splits)


if __name__ == '__main__':
    main(sys.argv[1:])
