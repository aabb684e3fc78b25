"""Cityscapes, finely and coarsely labelled."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Sequence

from mmengine.logging import print_log
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from .checks import FileChecksMixin

# The order decides the splits: sorted, validation first
# (NVIDIA/semantic-segmentation, datasets/cityscapes.py: cities_cv_split).
VAL_CITIES = ('frankfurt', 'lindau', 'munster')
TRAIN_CITIES = (
    *('aachen', 'bochum', 'bremen', 'cologne', 'darmstadt', 'dusseldorf'),
    *('erfurt', 'hamburg', 'hanover', 'jena', 'krefeld', 'monchengladbach'),
    *('strasbourg', 'stuttgart', 'tubingen', 'ulm', 'weimar', 'zurich'),
)
# The label ids of cityscapesScripts (helpers/labels.py) that are evaluated,
# in the order of their train ids; all other ids up to 33 are void.
EVALUATED_IDS = (
    *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
    *(23, 24, 25, 26, 27, 28, 31, 32, 33),
)
ID_TO_TRAIN_ID = {
    **dict.fromkeys(range(34), 255),
    **{value: i for i, value in enumerate(EVALUATED_IDS)},
}
#: An image of `train_extra` whose file is damaged: it is black all over, and
#: its coarse label has one value only. Other readers of the data set leave it
#: out as well.
DAMAGED_IMAGES = ('troisdorf_000000_000073_leftImg8bit.png',)
# What the names of labels end in, after 'gtFine' or 'gtCoarse'.
_SUFFIXES = {'trainIds': '_labelTrainIds.png', 'labelIds': '_labelIds.png'}


def cities_of_split(cv: int, split: str) -> tuple[str, ...]:
    """Return the cities of one of the authors' cross-validation splits.

    The 21 cities stand in a row, those of the official validation set first;
    split ``cv`` validates on three of them from the place ``7 * cv`` on and
    trains on the others. 0 is the official split; in 3 both parts are all
    cities (NVIDIA/semantic-segmentation, datasets/cityscapes.py).

    Raises:
        ValueError: If ``cv`` is not 0 to 3 or ``split`` not 'train' or 'val'.
    """
    if cv not in (0, 1, 2, 3):
        raise ValueError(f'cv={cv!r}; expected 0, 1, 2, 3 or None')
    if split not in ('train', 'val'):
        raise ValueError(f"split={split!r}; expected 'train' or 'val'")
    cities = VAL_CITIES + TRAIN_CITIES
    if cv == 3:
        return cities
    start = cv * len(cities) // 3
    val = cities[start : start + len(VAL_CITIES)]
    return val if split == 'val' else tuple(c for c in cities if c not in val)


def map_of_format(
    label_format: str, label_map: dict[int, int] | None
) -> dict[int, int] | None:
    """Return what maps the values of a label file to classes.

    ``label_map`` maps train ids to the classes of a data set that has not
    all 19.
    """
    if label_format == 'trainIds':
        return label_map
    classes = label_map or {i: i for i in range(len(EVALUATED_IDS))}
    return {
        value: classes.get(train_id, 255)
        for value, train_id in ID_TO_TRAIN_ID.items()
    }


def choose_label_suffix(
    label_format: str, part: str, suffix: str | None = None
) -> str:
    """Return the suffix of label files of 'gtFine' or 'gtCoarse'."""
    if label_format not in _SUFFIXES:
        raise ValueError(
            f"label_format={label_format!r}; expected 'trainIds' or 'labelIds'"
        )
    if suffix is None:
        return f'_{part}{_SUFFIXES[label_format]}'
    named = [key for key in _SUFFIXES if key.lower() in suffix.lower()]
    if named not in ([], [label_format]):
        raise ValueError(
            f'label_format={label_format!r}, but seg_map_suffix='
            f'{suffix!r} names files of {named[0]}'
        )
    return suffix


def choose_cities(
    data_list: list[dict], cities: Sequence[str] | None, folder: str
) -> list[dict]:
    """Return the samples of some cities, and log how many each has."""
    if cities is None:
        return data_list

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


class _Cityscapes(FileChecksMixin, CityscapesDataset):
    """Cityscapes of one kind of labels, with chosen cities."""

    def __init__(
        self,
        part: str,
        label_format: str,
        cities: Sequence[str] | None,
        **kwargs,
    ) -> None:
        kwargs['seg_map_suffix'] = choose_label_suffix(
            label_format, part, kwargs.get('seg_map_suffix')
        )
        self._cities = cities
        self._label_format = label_format
        super().__init__(**kwargs)

    def _choose(self, data_list: list[dict]) -> list[dict]:
        folder = self.data_prefix['img_path']
        data_list = choose_cities(data_list, self._cities, folder)
        # Not in the metainfo: data sets that differ only in the format of
        # their files can then be concatenated.
        label_map = map_of_format(self._label_format, self.label_map)
        for info in data_list:
            info['label_map'] = label_map
        return super()._choose(data_list)


@DATASETS.register_module()
class HMSACityscapesDataset(_Cityscapes):
    """mmseg's Cityscapes, with splits by city, checked at the start.

    Without arguments of its own it lists the same samples as
    :class:`mmseg.datasets.CityscapesDataset`. Where that one fails late, or
    trains on what it finds, this one refuses missing folders, an empty image
    list and images without label before the first iteration, with the config
    key and the value found; see :class:`FileChecksMixin`.

    Args:
        cv (int, optional): One of the authors' cross-validation splits, see
            :func:`cities_of_split`. It takes images from the folders train and
            val, so ``data_prefix`` names their parents. None: all images under
            ``data_prefix``.
        split (str): Which part of the split ``cv``: 'train' or 'val'.
        cities (Sequence[str], optional): Take the images of these cities only.
            None: all.
        label_format (str): 'trainIds' for the files that cityscapesScripts
            makes, 'labelIds' for those that come with the data set, which need
            no preparation.
        **kwargs: Arguments of :class:`mmseg.datasets.CityscapesDataset`.

    Raises:
        FileNotFoundError: If a chosen city has no image.
        ValueError: For values other than the above, for ``cv`` together with
            ``cities``, and if ``seg_map_suffix`` contradicts
            ``label_format``.
    """

    def __init__(
        self,
        cv: int | None = None,
        split: str = 'train',
        cities: Sequence[str] | None = None,
        label_format: str = 'trainIds',
        **kwargs,
    ) -> None:
        if cv is not None and cities is not None:
            raise ValueError(
                f'both cv={cv!r} and cities={cities!r}; expected one of them'
            )
        if cv is not None:
            cities = cities_of_split(cv, split)
        super().__init__('gtFine', label_format, cities, **kwargs)


@DATASETS.register_module()
class CityscapesCoarseDataset(_Cityscapes):
    """Cityscapes with its coarse labels.

    By default the 19,998 images of ``train_extra``, as the official archives
    unpack: ``leftImg8bit/train_extra`` and ``gtCoarse/train_extra``. The
    coarse labels of the finely labelled images, and other layouts, are
    reached through ``data_prefix``. Can be concatenated with
    :class:`HMSACityscapesDataset`.

    Args:
        label_format (str): 'labelIds' for the files of the archive, 'trainIds'
            for those that cityscapesScripts makes.
        cities (Sequence[str], optional): Take the images of these cities only.
            None: all.
        skip_list (Sequence[str]): Images to leave out: file names, or paths
            that end so. Names that are not there do no harm.
        missing (str): What to do about images without label: 'error', or
            'drop' to leave them out, with a line in the log.
        **kwargs: Arguments of :class:`mmseg.datasets.CityscapesDataset`.

    Raises:
        FileNotFoundError: If a chosen city has no image, or an image no
            label (``missing='error'``), and as :class:`FileChecksMixin`.
        ValueError: For other values of the options, if ``seg_map_suffix``
            contradicts ``label_format``, and if no image is left.
    """

    def __init__(
        self,
        label_format: str = 'labelIds',
        cities: Sequence[str] | None = None,
        skip_list: Sequence[str] = DAMAGED_IMAGES,
        missing: str = 'error',
        **kwargs,
    ) -> None:
        kwargs.setdefault(
            'data_prefix',
            dict(
                img_path='leftImg8bit/train_extra',
                seg_map_path='gtCoarse/train_extra',
            ),
        )
        self._set_choice(missing, skip_list)
        super().__init__('gtCoarse', label_format, cities, **kwargs)

    @property
    def file_label_maps(self) -> list:
        """list: How values become classes, for the index of centroids."""
        return [map_of_format(self._label_format, self.label_map)]
