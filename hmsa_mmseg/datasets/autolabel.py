"""Images with the labels that a teacher gave them."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Sequence

from mmengine import fileio
from mmengine.utils import is_abs
from mmseg.registry import DATASETS

from .autolabel_files import (
    LABEL_SUFFIX,
    PROB_SUFFIX,
    LabelSettings,
    build_label_map,
    label_file,
    merge_settings,
    prob_of_label,
    read_failures,
    read_label_settings,
)
from .checks import FileChecksMixin, SampleFile
from .folder import IMG_SUFFIXES, FolderListing, named_classes


@DATASETS.register_module()
class AutoLabelDataset(FileChecksMixin, FolderListing):
    """Images with labels from `hmsa label`, of any classes.

    The image ``a/1.jpg`` has the label ``a/1.png``, with its confidence in
    ``a/1_prob.png``. What the values mean is read from
    ``autolabel_meta.json``, in the folder of labels or the one above; without
    that file it is to be said. ``like`` makes the data set agree with the
    finely labelled one, so that the two can be concatenated, however their
    files differ.

    A sample has ``prob_map_path`` for :class:`ApplyConfidence`, and with
    ``data_prefix.coarse_map_path`` also ``coarse_map_path`` for
    :class:`UniteCoarseLabels`. Coarse labels are stored as the labels of
    ``like`` are.

    Args:
        like (str | dict, optional): The finely labelled data set, as in the
            config, or the name of its class: classes, palette, label map and
            ``reduce_zero_label`` become its own. None: the classes are those
            of ``classes``, else those of the labels.
        classes (Sequence[str], optional): Names of the classes, of which the
            labels may have more.
        palette (Sequence[Sequence[int]], optional): Their colours, RGB.
        label_format (str, optional): 'trainIds' if the files hold class
            numbers, 'labelIds' for other values. None: as the meta file says.
        label_ids (Sequence[int], optional): Value in the files of each class.
            None: as the meta file says.
        layout (str, optional): 'folders', or 'authors-flat' if all labels lie
            in one folder. None: as the meta file says, else 'folders'.
        prob (bool, optional): Whether there is confidence. None: as the meta
            file says, else True.
        coarse_map_suffix (str): What the name of a coarse label has in place
            of the image's suffix.
        skip_list (Sequence[str]): Images to leave out, file names or paths
            that end so.
        missing (str): What to do about images that lack label, confidence or
            coarse label: 'error', or 'drop' to leave them out with a line in
            the log.
        metainfo (dict, optional): As in mmseg.
        data_prefix (dict, optional): None: 'images' as ``img_path`` and
            'autolabels' as ``seg_map_path``.
        img_suffix (str | Sequence[str]): Suffixes of images.
        **kwargs: Arguments of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: If folders, or files of images
            (``missing='error'``), do not exist.
        ValueError: If the arguments contradict each other or the meta file,
            if neither says what the labels mean, if two images would share a
            label, or if no image is left.
    """

    #: What holds where neither arguments nor a meta file say anything.
    DEFAULT_SETTINGS = LabelSettings()
    #: Where images and labels are if that is not said.
    DEFAULT_PREFIX = dict(img_path='images', seg_map_path='autolabels')
    #: Label ids that are ignored, besides 255.
    VOID_IDS: tuple[int, ...] = ()

    def __init__(
        self,
        like: str | dict | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        label_format: str | None = None,
        label_ids: Sequence[int] | None = None,
        layout: str | None = None,
        prob: bool | None = None,
        coarse_map_suffix: str = '.png',
        skip_list: Sequence[str] = (),
        missing: str = 'error',
        metainfo: dict | None = None,
        data_prefix: dict | None = None,
        img_suffix: str | Sequence[str] = IMG_SUFFIXES,
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        self._set_choice(missing, skip_list)
        self.coarse_map_suffix = coarse_map_suffix
        data_prefix = dict(data_prefix or self.DEFAULT_PREFIX)
        root = kwargs.get('data_root')
        folder = _join(root, data_prefix, 'seg_map_path')
        found = read_label_settings(folder)
        self.label_settings = merge_settings(
            found,
            LabelSettings(
                label_format=label_format,
                label_ids=None if label_ids is None else list(label_ids),
                layout=layout,
                prob=prob,
            ),
            self.DEFAULT_SETTINGS,
            folder,
        )
        metainfo = named_classes(metainfo, classes, palette)
        images = _join(root, data_prefix, 'img_path')
        own = _metainfo_like(like, metainfo, images)
        if own is not None:
            metainfo = {key: own[key] for key in ('classes', 'palette')}
        elif not (metainfo.get('classes') or self.METAINFO.get('classes')):
            metainfo = self._metainfo_of_labels(metainfo, folder)
        super().__init__(
            metainfo=metainfo,
            data_prefix=data_prefix,
            img_suffix=img_suffix,
            seg_map_suffix=LABEL_SUFFIX,
            lazy_init=True,
            **kwargs,
        )
        if own is not None:
            self._metainfo = copy.deepcopy(own)
            self.label_map = own.get('label_map')
            self.reduce_zero_label = own.get('reduce_zero_label', False)
        names = self._metainfo['classes']
        self.file_label_map = build_label_map(
            names,
            self.label_settings.classes
            or self.METAINFO.get('classes')
            or names,
            self.label_settings,
            self.VOID_IDS,
        )
        if not lazy_init:
            self.full_init()

    def _metainfo_of_labels(self, metainfo: dict, folder: str) -> dict:
        settings = self.label_settings
        if not settings.classes:
            raise ValueError(
                f'{type(self).__name__}: classes is missing, and there is no '
                f'autolabel_meta.json in {folder!r} '
                '(data_prefix.seg_map_path) or the folder above; expected '
                'like=... with the finely labelled data set, or the names of '
                'the classes'
            )
        known = dict(classes=tuple(settings.classes))
        if settings.palette:
            known['palette'] = [list(color) for color in settings.palette]
        return {**known, **metainfo}

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
            # Of `.b.png` and `.png` the one that says more.
            suffixes = sorted(self.img_suffix, key=len, reverse=True)
            suffix = next(s for s in suffixes if self._ends_in(name, s))
            coarse = name[: -len(suffix)] + self.coarse_map_suffix
            label_map, reduce_zero_label = self._coarse_mapping()
            info.update(
                coarse_map_path=osp.join(folder, coarse),
                coarse_label_map=label_map,
                coarse_reduce_zero_label=reduce_zero_label,
            )
        return info

    def _coarse_mapping(self) -> tuple[dict[int, int] | None, bool]:
        """Return label map and reduce_zero_label of the coarse labels."""
        return self.label_map, self.reduce_zero_label

    @property
    def file_label_maps(self) -> list:
        """list: How values become classes, for the index of centroids."""
        return [self.file_label_map, *self._coarse_mapping()]

    def _choose(self, data_list: list[dict]) -> list[dict]:
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
        return super()._choose(data_list)

    def _sample_files(self) -> list[SampleFile]:
        files = super()._sample_files()
        if self.label_settings.prob:
            files.append(
                SampleFile(
                    *('prob_map_path', 'confidence map', 'seg_map_path'),
                    PROB_SUFFIX,
                )
            )
        key = 'coarse_map_path'
        if key in self.data_prefix:
            files.append(
                SampleFile(key, 'coarse label', key, self.coarse_map_suffix)
            )
        return files

    def _note(self, file: SampleFile, paths: Sequence[str]) -> str:
        if file.key != 'seg_map_path':
            return ''
        failures = read_failures(self.label_settings)
        known = [path for path in paths if path in failures]
        if not known:
            return ''
        return (
            f'. {len(known)} of them are in '
            f'{self.label_settings.folder}/failures.jsonl, for example '
            f'{known[0]!r}: {failures[known[0]]}'
        )


def _join(root: str | None, data_prefix: dict, key: str) -> str:
    # As mmengine does.
    folder = data_prefix.get(key)
    if folder is None:
        raise ValueError(
            f'data_prefix.{key} is missing; expected img_path with the folder '
            'of images and seg_map_path with that of auto-labels'
        )
    if root and not is_abs(folder):
        return fileio.join_path(root, folder)
    return folder


def _metainfo_like(
    like: str | dict | None, metainfo: dict, images: str
) -> dict | None:
    """Return the metainfo of another data set."""
    if like is None:
        return None
    if metainfo:
        raise ValueError(
            f'like together with {sorted(metainfo)}; expected one of the two '
            'to tell the classes'
        )
    if isinstance(like, str):
        # Some look for a folder of images even if they do not list it yet.
        like = dict(type=like, data_prefix=dict(img_path=images))
    return DATASETS.build({**like, 'lazy_init': True}).metainfo
