"""Mapillary Vistas."""

from __future__ import annotations

from mmseg.datasets import MapillaryDataset_v1, MapillaryDataset_v2
from mmseg.registry import DATASETS

from .checks import FileChecksMixin

# Of each release the folder of the labels, below that of a split, as it
# unpacks, and the data set of mmseg with its classes.
_RELEASES = {
    '1.1': ('labels', MapillaryDataset_v1),
    '1.2': ('v1.2/labels', MapillaryDataset_v1),
    '2.0': ('v2.0/labels', MapillaryDataset_v2),
}
_SCORED_AT = ('input', 'file')


@DATASETS.register_module()
class HMSAMapillaryDataset(FileChecksMixin, MapillaryDataset_v1):
    """Mapillary Vistas with the classes of its benchmark.

    Label files of 1.1 and 1.2 hold 66 values, those of 2.0 124; the last,
    'Unlabeled', is ignored (255), so that padding and unlabelled pixels are
    one thing. The archive of 2.0 holds the labels of 1.2 too: with
    ``version='1.2'`` it is read with the 65 classes. Missing folders, an
    empty image list and images without label are refused before the first
    iteration; see :class:`FileChecksMixin`.

    Args:
        version (str): Whose labels and classes, '1.1', '1.2' or '2.0'.
        split (str, optional): The folder of a part as the archive unpacks,
            'training' or 'validation'. None: ``data_prefix`` says all.
        scored_at (str): Where :class:`EvalAtInputSize` in the pipeline lets
            predictions be scored: 'input', at the size that the network sees,
            or 'file', at that of the label file.
        data_prefix (dict, optional): Folders below ``data_root``; what it
            names is taken instead of the folders of ``split``.
        metainfo (dict, optional): As in mmseg; its ``classes`` may be any
            subset of those in the files. None: all but the last.
        **kwargs: Arguments of :class:`mmseg.datasets.MapillaryDataset_v1`.

    Raises:
        ValueError: If an argument makes no sense, or folders are not named.
    """

    def __init__(
        self,
        version: str = '1.2',
        split: str | None = None,
        scored_at: str = 'input',
        data_prefix: dict | None = None,
        metainfo: dict | None = None,
        **kwargs,
    ) -> None:
        # A command line makes a number of it.
        version = str(version)
        if version not in _RELEASES:
            raise ValueError(
                f'HMSAMapillaryDataset: version={version!r}; expected one of '
                f'{[*_RELEASES]}'
            )
        if scored_at not in _SCORED_AT:
            raise ValueError(
                f'HMSAMapillaryDataset: scored_at={scored_at!r}; expected '
                f'one of {list(_SCORED_AT)}'
            )
        if split is None and not data_prefix:
            raise ValueError(
                'HMSAMapillaryDataset: neither split nor data_prefix is '
                "given; expected for example split='training'"
            )
        labels, like = _RELEASES[version]
        folders = {}
        if split is not None:
            folders = dict(
                img_path=f'{split}/images', seg_map_path=f'{split}/{labels}'
            )
        self.scored_at = scored_at
        self.METAINFO = like.METAINFO
        self.get_label_map = like.get_label_map
        metainfo = {'palette': self.METAINFO['palette'], **(metainfo or {})}
        metainfo.setdefault('classes', self.METAINFO['classes'][:-1])
        super().__init__(
            metainfo=metainfo,
            data_prefix={**folders, **(data_prefix or {})},
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the samples, each with ``scored_at``."""
        data_list = super().load_data_list()
        for info in data_list:
            info['scored_at'] = self.scored_at
        return data_list
