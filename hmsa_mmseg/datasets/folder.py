"""A folder of images and one of masks, as people have them."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

import mmengine
from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .checks import FileChecksMixin

IMG_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def named_classes(
    metainfo: dict | None,
    classes: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
) -> dict:
    """Return a metainfo with names and colours that are given."""
    metainfo = dict(metainfo or {})
    if classes is not None:
        metainfo['classes'] = tuple(classes)
    if palette is not None:
        metainfo['palette'] = [list(color) for color in palette]
    return metainfo


class FolderListing(BaseSegDataset):
    """Lists images of any suffix, each with the mask of its name."""

    def __init__(
        self, img_suffix: str | Sequence[str] = IMG_SUFFIXES, **kwargs
    ) -> None:
        suffixes = (img_suffix,) if isinstance(img_suffix, str) else img_suffix
        super().__init__(img_suffix=tuple(suffixes), **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the samples by the names of their images."""
        names = self._listed_images() if self.ann_file else self._images()
        return [self._info(name) for name in sorted(names)]

    def _info(self, name: str) -> dict:
        """Describe the sample of an image, by its path in the folder."""
        info = dict(
            img_path=osp.join(self.data_prefix['img_path'], name),
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
        )
        folder = self.data_prefix.get('seg_map_path')
        if folder is not None:
            info['seg_map_path'] = osp.join(folder, self._mask(name))
        return info

    def _mask(self, name: str) -> str:
        """Path of an image's mask, relative to the folder of masks."""
        return osp.splitext(name)[0] + self.seg_map_suffix

    @staticmethod
    def _ends_in(name: str, suffix: str) -> bool:
        return name.lower().endswith(suffix.lower())

    def _images(self) -> list[str]:
        """Paths of all images, relative to their folder."""
        folder = self.data_prefix['img_path']
        files = fileio.list_dir_or_file(
            folder,
            list_dir=False,
            recursive=True,
            backend_args=self.backend_args,
        )
        names = [
            name
            for name in files
            if any(self._ends_in(name, suffix) for suffix in self.img_suffix)
        ]
        masks: dict[str, str] = {}
        for name in sorted(names):
            other = masks.setdefault(self._mask(name), name)
            if other != name:
                raise ValueError(
                    f'{other!r} and {name!r} under {folder!r} '
                    '(data_prefix.img_path) would share one mask; expected '
                    'names that differ in more than their suffix'
                )
        return names

    def _listed_images(self) -> list[str]:
        """The images that ``ann_file`` names, with or without suffix."""
        lines = mmengine.list_from_file(
            self.ann_file, backend_args=self.backend_args
        )
        wanted = [line.strip() for line in lines if line.strip()]
        images = {name: name for name in self._images()}
        images.update({osp.splitext(name)[0]: name for name in images})
        missing = [name for name in wanted if name not in images]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(wanted)} images named in ann_file='
                f'{self.ann_file!r} are not under '
                f'{self.data_prefix["img_path"]!r} (data_prefix.img_path), '
                f'for example {missing[0]!r}'
            )
        return [images[name] for name in wanted]


@DATASETS.register_module()
class HMSAFolderDataset(FileChecksMixin, FolderListing):
    """Images and masks in two folders, matched by name.

    ``images/a/1.jpg`` belongs to ``masks/a/1.png``: sub-folders and names
    are the same, whatever the suffix of the image. A mask holds one class
    number per pixel, 255 where there is none. Missing folders, an empty list
    and images without mask are refused before the first iteration; see
    :class:`FileChecksMixin`.

    Args:
        classes (Sequence[str], optional): Names of the classes, in the order
            of their numbers. None: ``metainfo`` has them.
        palette (Sequence[Sequence[int]], optional): Their colours, RGB. None:
            those of ``metainfo``, else mmseg makes some.
        img_suffix (str | Sequence[str]): Suffixes of images, in small letters.
        **kwargs: Arguments of :class:`mmseg.datasets.BaseSegDataset`.
            ``data_prefix`` is by default ``img_path='images'`` and
            ``seg_map_path='masks'``; with ``ann_file``, a list of names, only
            those images are taken.

    Raises:
        ValueError: If there are no class names, or two images would share a
            mask.
        FileNotFoundError: If ``ann_file`` names images that are not there.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        **kwargs,
    ) -> None:
        metainfo = named_classes(
            kwargs.pop('metainfo', None), classes, palette
        )
        if not metainfo.get('classes'):
            raise ValueError(
                'HMSAFolderDataset: classes is missing; expected the names '
                "of the classes, for example classes=('road', 'tree')"
            )
        kwargs.setdefault(
            'data_prefix', dict(img_path='images', seg_map_path='masks')
        )
        super().__init__(metainfo=metainfo, **kwargs)
