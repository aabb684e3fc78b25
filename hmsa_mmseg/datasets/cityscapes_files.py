"""Names of Cityscapes' label files, and choice of cities."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Sequence

from mmengine.logging import print_log

#: Suffix of the labels of the fine and the coarse part, for their format.
LABEL_SUFFIXES = {
    'trainIds': '_{}_labelTrainIds.png',
    'labelIds': '_{}_labelIds.png',
}


def choose_label_suffix(
    label_format: str, part: str, suffix: str | None = None
) -> str:
    """Return the suffix of Cityscapes' label files.

    Args:
        label_format (str): 'trainIds' or 'labelIds'.
        part (str): 'gtFine' or 'gtCoarse'.
        suffix (str, optional): To be taken instead, if it does not contradict
            ``label_format``.

    Raises:
        ValueError: If the format is another, or if the suffix contradicts it.
    """
    if label_format not in LABEL_SUFFIXES:
        raise ValueError(
            f"label_format={label_format!r}; expected 'trainIds' or 'labelIds'"
        )
    if suffix is None:
        return LABEL_SUFFIXES[label_format].format(part)
    named = [key for key in LABEL_SUFFIXES if key.lower() in suffix.lower()]
    if named not in ([], [label_format]):
        raise ValueError(
            f'label_format={label_format!r}, but seg_map_suffix='
            f'{suffix!r} names files of {named[0]}'
        )
    return suffix


def choose_cities(
    data_list: list[dict], cities: Sequence[str], folder: str
) -> list[dict]:
    """Return the samples of some cities, and log how many each has.

    Args:
        data_list (list[dict]): Samples with ``img_path``.
        cities (Sequence[str]): Names of folders of images.
        folder (str): Folder of all images, for the error.

    Raises:
        FileNotFoundError: If a city has no image.
    """

    def city(info: dict) -> str:
        return osp.basename(osp.dirname(info['img_path']))

    chosen = [info for info in data_list if city(info) in cities]
    counts = Counter(map(city, chosen))
    missing = sorted({*cities} - {*counts})
    if missing:
        raise FileNotFoundError(
            f'no image of {", ".join(missing)} under '
            f'{folder!r} (data_prefix.img_path); '
            f'expected a folder with images for each of the '
            f'{len({*cities})} cities chosen by cv or cities. With '
            "cv the prefixes are 'leftImg8bit' and 'gtFine', which hold "
            'train and val'
        )
    listed = ', '.join(f'{c} ({counts[c]})' for c in sorted(counts))
    print_log(
        f'{len(chosen)} images of {len(counts)} cities: {listed}',
        logger='current',
    )
    return chosen
