"""Cityscapes."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from .checks import FileChecksMixin
from .cityscapes_files import choose_cities, choose_label_suffix

# The order decides the splits: sorted, validation first
# (NVIDIA/semantic-segmentation, datasets/cityscapes.py: cities_cv_split).
VAL_CITIES = ('frankfurt', 'lindau', 'munster')
TRAIN_CITIES = (
    'aachen',
    'bochum',
    'bremen',
    'cologne',
    'darmstadt',
    'dusseldorf',
    'erfurt',
    'hamburg',
    'hanover',
    'jena',
    'krefeld',
    'monchengladbach',
    'strasbourg',
    'stuttgart',
    'tubingen',
    'ulm',
    'weimar',
    'zurich',
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

    Args:
        label_format (str): 'trainIds' or 'labelIds'.
        label_map (dict[int, int], optional): Maps train ids to the classes
            of a data set that has not all 19. Defaults to None, all.
    """
    if label_format == 'trainIds':
        return label_map
    classes = label_map or {i: i for i in range(len(EVALUATED_IDS))}
    return {
        value: classes.get(train_id, 255)
        for value, train_id in ID_TO_TRAIN_ID.items()
    }


class CityscapesListing(CityscapesDataset):
    """Lists chosen cities, with the map of the chosen labels."""

    _cities: tuple[str, ...] | None
    _label_format: str

    def load_data_list(self) -> list[dict]:
        """List the samples of the chosen cities."""
        data_list = super().load_data_list()
        if self._cities is not None:
            folder = self.data_prefix['img_path']
            data_list = choose_cities(data_list, self._cities, folder)
        # Not in the metainfo: data sets that differ only in the format of
        # their files can then be concatenated.
        label_map = map_of_format(self._label_format, self.label_map)
        for info in data_list:
            info['label_map'] = label_map
        return data_list


@DATASETS.register_module()
class HMSACityscapesDataset(FileChecksMixin, CityscapesListing):
    """mmseg's Cityscapes, with splits by city, checked at the start.

    Without arguments of its own it lists the same samples as
    :class:`mmseg.datasets.CityscapesDataset`. Where that one fails late, or
    trains on what it finds, this one refuses missing folders, an empty image
    list and images without label before the first iteration, with the config
    key and the value found; see :class:`FileChecksMixin`.

    Args:
        cv (int, optional): One of the authors' cross-validation splits, see
            :func:`cities_of_split`. It takes images from the folders train
            and val, so ``data_prefix`` names their parents. Defaults to
            None: all images under ``data_prefix``.
        split (str): Which part of the split ``cv``: 'train' or 'val'.
            Defaults to 'train'.
        cities (Sequence[str], optional): Take the images of these cities
            only. Defaults to None, all.
        label_format (str): 'trainIds' for the files that cityscapesScripts
            makes, 'labelIds' for those that come with the data set, which
            need no preparation. Defaults to 'trainIds'.
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
        kwargs['seg_map_suffix'] = choose_label_suffix(
            label_format, 'gtFine', kwargs.get('seg_map_suffix')
        )
        self._cities = None if cities is None else tuple(cities)
        self._label_format = label_format
        super().__init__(**kwargs)
