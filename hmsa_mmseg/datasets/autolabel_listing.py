"""Which files belong to an image that a teacher has labelled."""

from __future__ import annotations

import os.path as osp

from .autolabel_files import label_file, prob_of_label
from .autolabel_settings import LabelSettings
from .folder import FolderListing


class AutoLabelListing(FolderListing):
    """Lists images with label, confidence and coarse label."""

    label_settings: LabelSettings
    file_label_map: dict[int, int]
    coarse_map_suffix: str

    def load_data_list(self) -> list[dict]:
        """List the samples by the names of their images.

        Raises:
            ValueError: If an image's label would be another's confidence.
        """
        data_list = super().load_data_list()
        images = {i.get('seg_map_path'): i['img_path'] for i in data_list}
        for info in data_list:
            prob = info.get('prob_map_path')
            if prob in images and prob is not None:
                raise ValueError(
                    f'{prob!r} would be both the label of {images[prob]!r} '
                    f'and the confidence of {info["img_path"]!r}; expected '
                    'no image (data_prefix.img_path) whose name is that of '
                    "another with '_prob' at its end"
                )
        return data_list

    def _mask(self, name: str) -> str:
        stem = osp.splitext(name)[0]
        return label_file(stem, self.label_settings.layout)

    def _info(self, name: str) -> dict:
        info = super()._info(name)
        # Of this sample, not in the metainfo: the labels of the data set that
        # it is concatenated with may be stored in another way.
        info.update(label_map=self.file_label_map, reduce_zero_label=False)
        if self.label_settings.prob:
            info['prob_map_path'] = prob_of_label(info['seg_map_path'])
        folder = self.data_prefix.get('coarse_map_path')
        if folder is not None:
            coarse = self._image_stem(name) + self.coarse_map_suffix
            label_map, reduce_zero_label = self._coarse_mapping()
            info.update(
                coarse_map_path=osp.join(folder, coarse),
                coarse_label_map=label_map,
                coarse_reduce_zero_label=reduce_zero_label,
            )
        return info

    def _image_stem(self, name: str) -> str:
        suffixes = self.img_suffix
        if isinstance(suffixes, str):
            suffixes = (suffixes,)
        # Of `.b.png` and `.png` the one that says more.
        for suffix in sorted(suffixes, key=len, reverse=True):
            if name.lower().endswith(suffix.lower()):
                return name[: -len(suffix)]
        return osp.splitext(name)[0]

    def _coarse_mapping(self) -> tuple[dict[int, int] | None, bool]:
        """Return label map and reduce_zero_label of the coarse labels."""
        return self.label_map, self.reduce_zero_label

    @property
    def file_label_maps(self) -> list:
        """list: How values become classes, for the index of centroids."""
        return [self.file_label_map, *self._coarse_mapping()]
