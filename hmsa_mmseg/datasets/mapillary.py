"""Mapillary Vistas."""

from __future__ import annotations

from mmseg.datasets import MapillaryDataset_v1
from mmseg.registry import DATASETS

from .checks import FileChecksMixin


@DATASETS.register_module()
class HMSAMapillaryDataset(FileChecksMixin, MapillaryDataset_v1):
    """Mapillary Vistas 1.2 with the 65 classes of the benchmark.

    The label files hold 66 values; the last, 'Unlabeled', is ignored (255),
    so that padding and unlabelled pixels are one thing. Missing folders, an
    empty image list and images without label are refused before the first
    iteration; see :class:`FileChecksMixin`. The folders of version 1.1 and
    of 1.2 differ: ``data_prefix`` names them.

    Args:
        metainfo (dict, optional): As in mmseg; its ``classes`` may be any
            subset of the 66. Defaults to None, the first 65.
        **kwargs: Arguments of :class:`mmseg.datasets.MapillaryDataset_v1`.
    """

    def __init__(self, metainfo: dict | None = None, **kwargs) -> None:
        metainfo = dict(metainfo or {})
        metainfo.setdefault('classes', self.METAINFO['classes'][:-1])
        super().__init__(metainfo=metainfo, **kwargs)
