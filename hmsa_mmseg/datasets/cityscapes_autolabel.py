"""Auto-labels of Cityscapes."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from .autolabel import AutoLabelDataset
from .autolabel_files import LabelSettings
from .cityscapes import (
    DAMAGED_IMAGES,
    EVALUATED_IDS,
    ID_TO_TRAIN_ID,
    choose_cities,
    choose_label_suffix,
    map_of_format,
)


@DATASETS.register_module()
class CityscapesAutoLabelDataset(AutoLabelDataset):
    """Cityscapes with a teacher's labels, the authors' archive or one's own.

    By default it reads the archive that the authors published
    (``refinement_final/train_extra``, label ids with confidence) as it
    unpacks; the folder ``tmp`` beside ``train_extra`` does not matter. For
    the output of `hmsa label` its folder is given as
    ``data_prefix.seg_map_path``; how it is stored is read from there. Can be
    concatenated with :class:`HMSACityscapesDataset`. What happens to the
    labels is up to the pipeline, never to the name of a folder.

    Args:
        cities (Sequence[str], optional): Take the images of these cities only.
            None: all.
        coarse_label_format (str): Of the coarse labels, 'labelIds' or
            'trainIds'. They are read if there is a
            ``data_prefix.coarse_map_path``, such as 'gtCoarse/train_extra'.
        coarse_map_suffix (str, optional): None: that of the format.
        skip_list (Sequence[str]): Images to leave out.
        data_prefix (dict, optional): None: 'leftImg8bit/train_extra' as
            ``img_path`` and 'refinement_final/train_extra' as
            ``seg_map_path``.
        img_suffix (str):
        **kwargs: Arguments of :class:`AutoLabelDataset`.

    Raises:
        FileNotFoundError: If a chosen city has no image, and as
            :class:`AutoLabelDataset`.
        ValueError: As :class:`AutoLabelDataset`.
    """

    METAINFO = CityscapesDataset.METAINFO
    DEFAULT_SETTINGS = LabelSettings(
        label_format='labelIds', label_ids=[*EVALUATED_IDS]
    )
    DEFAULT_PREFIX = dict(
        img_path='leftImg8bit/train_extra',
        seg_map_path='refinement_final/train_extra',
    )
    VOID_IDS = tuple(i for i, k in ID_TO_TRAIN_ID.items() if k == 255)

    def __init__(
        self,
        cities: Sequence[str] | None = None,
        coarse_label_format: str = 'labelIds',
        coarse_map_suffix: str | None = None,
        skip_list: Sequence[str] = DAMAGED_IMAGES,
        img_suffix: str = '_leftImg8bit.png',
        **kwargs,
    ) -> None:
        self._cities = cities
        self._coarse_label_format = coarse_label_format
        super().__init__(
            coarse_map_suffix=choose_label_suffix(
                coarse_label_format, 'gtCoarse', coarse_map_suffix
            ),
            skip_list=skip_list,
            img_suffix=img_suffix,
            **kwargs,
        )

    def _coarse_mapping(self) -> tuple[dict[int, int] | None, bool]:
        return map_of_format(self._coarse_label_format, self.label_map), False

    def _choose(self, data_list: list[dict]) -> list[dict]:
        folder = self.data_prefix['img_path']
        data_list = choose_cities(data_list, self._cities, folder)
        return super()._choose(data_list)
