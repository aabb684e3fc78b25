"""Samples that a data set leaves out, each with its reason in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmengine.logging import print_log

from .checks import FileChecksMixin, first_names


class SampleFile(NamedTuple):
    """A file that each sample should have.

    Attributes:
        key (str): Of its path in a sample.
        what (str): What to call it.
        folder (str): Key of its folder in ``data_prefix``.
        suffix (str): Of its name.
    """

    key: str
    what: str
    folder: str
    suffix: str


class SampleChoiceMixin(FileChecksMixin):
    """Leaves out images by name, and images without label if told to.

    Everything that is left out is counted and named in the log. Files are
    matched by name alone, so that a missing one shifts no other.

    Raises:
        FileNotFoundError: As :class:`FileChecksMixin`; with
            ``missing='error'`` also if an image lacks one of its files.
        ValueError: If no image is left.
    """

    skip_list: tuple[str, ...]
    missing: str

    def _set_choice(self, missing: str, skip_list: Sequence[str]) -> None:
        """Set the options; to be called before the base's constructor."""
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

    def _sample_files(self) -> list[SampleFile]:
        """List the files that a sample should have besides its image."""
        suffix = self.seg_map_suffix
        return [SampleFile('seg_map_path', 'label', 'seg_map_path', suffix)]

    def _note(self, paths: Sequence[str]) -> str:
        """Say what is known about missing labels, for subclasses."""
        return ''

    def _leave_out(self, data_list: list[dict]) -> list[dict]:
        ends = tuple(f'/{name}' for name in self.skip_list)
        kept = [
            info
            for info in data_list
            if not f'/{info["img_path"]}'.endswith(ends)
        ]
        if len(kept) < len(data_list):
            self._log(data_list, kept, 'are named in skip_list')
        return kept

    def _check_labels(self, data_list: list[dict]) -> list[dict]:
        for file in self._sample_files():
            if not self._can_list(file.folder):
                continue
            paths = [info[file.key] for info in data_list]
            missing = self._missing(paths, file.folder, file.suffix)
            if not missing:
                continue
            note = self._note(missing) if file.key == 'seg_map_path' else ''
            if self.missing == 'error':
                raise FileNotFoundError(
                    f'{len(missing)} of {len(paths)} images have no '
                    f'{file.what}: {first_names(missing)} do not exist; '
                    f'expected one for each image under '
                    f'{self.data_prefix[file.folder]!r} '
                    f'(data_prefix.{file.folder}), with suffix '
                    f"{file.suffix!r}, or missing='drop' to leave these "
                    f'images out{note}'
                )
            lacking = {*missing}
            kept = [i for i in data_list if i[file.key] not in lacking]
            self._log(data_list, kept, f'have no {file.what}{note}')
            data_list = kept
        return data_list

    def _log(self, before: list[dict], after: list[dict], reason: str) -> None:
        kept = {info['img_path'] for info in after}
        left_out = [
            info['img_path'] for info in before if info['img_path'] not in kept
        ]
        message = (
            f'{len(left_out)} of {len(before)} images {reason}: '
            f'{first_names(left_out)}'
        )
        if not after:
            raise ValueError(f'no image is left: {message}')
        print_log(f'left out: {message}', logger='current')
