"""Checks a dataset makes of its folders and files when it lists them."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterable, Iterator

from mmengine import fileio


class FileChecksMixin:
    """Refuses a dataset whose files are not there, when they are listed.

    To be placed before a :class:`mmseg.datasets.BaseSegDataset` among the
    bases. Folders are listed through the dataset's own file back end; no
    image and no label is opened. A back end that cannot list folders (HTTP)
    is left unchecked, and so are labels when ``test_mode`` is set.

    Raises:
        FileNotFoundError: If ``data_root``, a folder of ``data_prefix`` or
            ``ann_file`` does not exist, if ``ann_file`` names images that do
            not exist, or if images have no label.
        ValueError: If there is not a single image.
    """

    def load_data_list(self) -> list[dict]:
        """List the samples as the parent does and check that they exist.

        Returns:
            list[dict]: The parent's list, without those that ``_leave_out``
            and ``_check_labels`` of a subclass take out.
        """
        checked_keys = ['img_path'] if self.test_mode else [*self.data_prefix]
        checked_keys = [key for key in checked_keys if self._can_list(key)]
        for key in checked_keys:
            self._check_folder(key)
        self._check_ann_file()
        data_list = super().load_data_list()
        self._check_not_empty(data_list)
        data_list = self._leave_out(data_list)
        if 'img_path' in checked_keys and self.ann_file:
            self._check_images(data_list)
        if 'seg_map_path' in checked_keys:
            data_list = self._check_labels(data_list)
        return data_list

    def _leave_out(self, data_list: list[dict]) -> list[dict]:
        """Return the samples to use, for subclasses that choose."""
        return data_list

    def _can_list(self, key: str) -> bool:
        folder = self.data_prefix.get(key)
        # An image list may hold whole paths; then there is no folder.
        if folder is None or (folder == '' and self.ann_file):
            return False
        backend = fileio.get_file_backend(
            folder, backend_args=self.backend_args
        )
        return hasattr(backend, 'list_dir_or_file')

    def _is_folder(self, path: str) -> bool:
        return fileio.isdir(path, backend_args=self.backend_args)

    def _check_folder(self, key: str) -> None:
        folder = self.data_prefix[key]
        if self._is_folder(folder):
            return
        root = self.data_root
        if root and folder.startswith(root) and not self._is_folder(root):
            raise FileNotFoundError(
                f'data_root={root!r} does not exist; expected the folder that '
                f'holds the data set (data_prefix.{key} is then {folder!r})'
            )
        raise FileNotFoundError(
            f'data_prefix.{key}: {folder!r} does not exist or is not a '
            f'folder; expected a folder, relative to data_root={root!r}'
        )

    def _check_ann_file(self) -> None:
        path = self.ann_file
        if not path:
            return
        backend = fileio.get_file_backend(path, backend_args=self.backend_args)
        if hasattr(backend, 'exists') and not backend.exists(path):
            raise FileNotFoundError(
                f'ann_file={path!r} does not exist; expected a text file with '
                'one image name per line, without suffix'
            )

    def _check_not_empty(self, data_list: list[dict]) -> None:
        if data_list:
            return
        if self.ann_file:
            raise ValueError(
                f'0 images listed in ann_file={self.ann_file!r}; expected one '
                'image name per line, without suffix'
            )
        folder = self.data_prefix['img_path']
        others = first_names(self._list_files(folder)) or 'no file at all'
        raise ValueError(
            f'0 images with suffix {self.img_suffix!r} (img_suffix) under '
            f'{folder!r} (data_prefix.img_path); found {others}'
        )

    def _check_images(self, data_list: list[dict]) -> None:
        images = [info['img_path'] for info in data_list]
        missing = self._missing(images, 'img_path', self.img_suffix)
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(images)} images named in ann_file='
                f'{self.ann_file!r} do not exist: {first_names(missing)}; '
                'expected data_prefix.img_path + name + '
                f'{self.img_suffix!r} (img_suffix)'
            )

    def _check_labels(self, data_list: list[dict]) -> list[dict]:
        labels = [info['seg_map_path'] for info in data_list]
        missing = self._missing(labels, 'seg_map_path', self.seg_map_suffix)
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(labels)} images have no label: '
                f'{first_names(missing)} do not exist; expected for each '
                'image data_prefix.seg_map_path + its name with '
                f'{self.seg_map_suffix!r} (seg_map_suffix) in place of '
                f'{self.img_suffix!r} (img_suffix)'
            )
        return data_list

    def _missing(self, paths: list[str], key: str, suffix: str) -> list[str]:
        # One listing instead of a request per file, which matters on a
        # remote back end; only what it lacks is asked for by name (an image
        # list may point outside of the folder).
        folder = self.data_prefix[key]
        found = {
            osp.join(folder, name) for name in self._list_files(folder, suffix)
        }
        return [
            path
            for path in paths
            if path not in found
            and not fileio.exists(path, backend_args=self.backend_args)
        ]

    def _list_files(
        self, folder: str, suffix: str | None = None
    ) -> Iterator[str]:
        return fileio.list_dir_or_file(
            folder,
            list_dir=False,
            suffix=suffix,
            recursive=True,
            backend_args=self.backend_args,
        )


def first_names(names: Iterable[str], count: int = 3) -> str:
    """Join the first names for a message; '' if there is none."""
    shown = []
    for name in names:
        if len(shown) == count:
            return ', '.join([*shown, '...'])
        shown.append(repr(name))
    return ', '.join(shown)
