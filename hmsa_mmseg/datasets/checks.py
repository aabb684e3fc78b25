"""Checks a dataset makes of its folders and files when it lists them."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mmengine import fileio
from mmengine.logging import print_log


class SampleFile(NamedTuple):
    """A file that each sample should have besides its image."""

    key: str  # of its path in a sample
    what: str  # to call it
    folder: str  # key of its folder in `data_prefix`
    suffix: str


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

    #: 'error' or 'drop', of subclasses that let a user choose: what to do
    #: about images that lack a file.
    missing: str | None = None
    #: Images to leave out: file names, or paths that end so.
    skip_list: tuple[str, ...] = ()

    def _set_choice(self, missing: str, skip_list: Sequence[str]) -> None:
        """Set the two options; to be called before the constructor."""
        if missing not in ('error', 'drop'):
            raise ValueError(
                f"missing={missing!r}; expected 'error' or 'drop'"
            )
        if isinstance(skip_list, str):
            raise ValueError(
                f'skip_list={skip_list!r}; expected a list of file names'
            )
        self.missing = missing
        self.skip_list = tuple(skip_list)

    def _choose(self, data_list: list[dict]) -> list[dict]:
        """Return the samples to use, before labels are looked for."""
        ends = tuple(f'/{name}' for name in self.skip_list)
        kept = [
            info
            for info in data_list
            if not f'/{info["img_path"]}'.endswith(ends)
        ]
        self._log_left_out(data_list, kept, 'are named in skip_list')
        return kept

    def _sample_files(self) -> list[SampleFile]:
        """List the files that a sample should have besides its image."""
        suffix = self.seg_map_suffix
        return [SampleFile('seg_map_path', 'label', 'seg_map_path', suffix)]

    def _note(self, file: SampleFile, paths: Sequence[str]) -> str:
        """Say what is known about missing files, for subclasses."""
        return ''

    def load_data_list(self) -> list[dict]:
        """List those of the parent's samples to use, once all is checked."""
        checked_keys = ['img_path'] if self.test_mode else [*self.data_prefix]
        checked_keys = [key for key in checked_keys if self._can_list(key)]
        for key in checked_keys:
            self._check_folder(key)
        self._check_ann_file()
        data_list = super().load_data_list()
        self._check_not_empty(data_list)
        data_list = self._choose(data_list)
        if 'img_path' in checked_keys and self.ann_file:
            self._check_images(data_list)
        for file in self._sample_files():
            if file.folder in checked_keys:
                data_list = self._check_file(data_list, file)
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
        others = [*islice(self._list_files(folder), 4)]
        raise ValueError(
            f'0 images with suffix {self.img_suffix!r} (img_suffix) under '
            f'{folder!r} (data_prefix.img_path); found '
            f'{_first_names(others) or "no file at all"}'
        )

    def _check_images(self, data_list: list[dict]) -> None:
        images = [info['img_path'] for info in data_list]
        missing = self._missing(images, 'img_path', self.img_suffix)
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(images)} images named in ann_file='
                f'{self.ann_file!r} do not exist: {_first_names(missing)}; '
                'expected data_prefix.img_path + name + '
                f'{self.img_suffix!r} (img_suffix)'
            )

    def _check_file(
        self, data_list: list[dict], file: SampleFile
    ) -> list[dict]:
        paths = [info[file.key] for info in data_list]
        missing = {*self._missing(paths, file.folder, file.suffix)}
        if not missing:
            return data_list
        absent = [path for path in paths if path in missing]
        note = self._note(file, absent)
        if self.missing != 'drop':
            cure = ''
            if self.missing is not None:
                cure = ", or missing='drop' to leave these images out"
            option = file.key.replace('_path', '_suffix')
            option = f' ({option})' if hasattr(self, option) else ''
            raise FileNotFoundError(
                f'{len(absent)} of {len(paths)} images have no {file.what}: '
                f'{_first_names(absent)} do not exist; expected for each '
                f'image data_prefix.{file.folder} + its name with '
                f'{file.suffix!r}{option} in place of {self.img_suffix!r} '
                f'(img_suffix){cure}{note}'
            )
        kept = [info for info in data_list if info[file.key] not in missing]
        self._log_left_out(data_list, kept, f'have no {file.what}{note}')
        return kept

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

    def _log_left_out(
        self, before: list[dict], after: list[dict], reason: str
    ) -> None:
        kept = {info['img_path'] for info in after}
        paths = [info['img_path'] for info in before]
        left_out = [path for path in paths if path not in kept]
        if not left_out:
            return
        message = (
            f'{len(left_out)} of {len(before)} images {reason}: '
            f'{_first_names(left_out)}'
        )
        if not after:
            raise ValueError(f'no image is left: {message}')
        print_log(f'left out: {message}', logger='current')


def _first_names(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:3]]
    if len(names) > 3:
        shown.append('...')
    return ', '.join(shown)
