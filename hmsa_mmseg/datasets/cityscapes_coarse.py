"""The coarsely labelled part of Cityscapes."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.registry import DATASETS

from .cityscapes import CityscapesListing, map_of_format
from .cityscapes_files import choose_label_suffix
from .sample_choice import SampleChoiceMixin

#: An image of `train_extra` whose file is damaged: it is black all over, and
#: its coarse label has one value only. Other readers of the data set leave it
#: out as well.
DAMAGED_IMAGES = ('troisdorf_000000_000073_leftImg8bit.png',)


@DATASETS.register_module()
class CityscapesCoarseDataset(SampleChoiceMixin, CityscapesListing):
    """Cityscapes with its coarse labels.

    By default the 19,998 images of ``train_extra``, as the official archives
    unpack: ``leftImg8bit/train_extra`` and ``gtCoarse/train_extra``. The
    coarse labels of the finely labelled images, and other layouts, are
    reached through ``data_prefix``. Can be concatenated with
    :class:`HMSACityscapesDataset`.

    Args:
        label_format (str): 'labelIds' for the files of the archive,
            'trainIds' for those that cityscapesScripts makes. Defaults to
            'labelIds'.
        cities (Sequence[str], optional): Take the images of these cities
            only. Defaults to None, all.
        skip_list (Sequence[str]): Images to leave out: file names, or paths
            that end so. Names that are not there do no harm. Defaults to
            :data:`DAMAGED_IMAGES`.
        missing (str): What to do about images without label: 'error', or
            'drop' to leave them out, with a line in the log. Defaults to
            'error'.
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
        kwargs['seg_map_suffix'] = choose_label_suffix(
            label_format, 'gtCoarse', kwargs.get('seg_map_suffix')
        )
        kwargs.setdefault(
            'data_prefix',
            dict(
                img_path='leftImg8bit/train_extra',
                seg_map_path='gtCoarse/train_extra',
            ),
        )
        self._cities = None if cities is None else tuple(cities)
        self._label_format = label_format
        self._set_choice(missing, skip_list)
        super().__init__(**kwargs)

    @property
    def file_label_maps(self) -> list:
        """list: How values become classes, for the index of centroids."""
        return [map_of_format(self._label_format, self.label_map)]
