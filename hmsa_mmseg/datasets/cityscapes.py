"""Cityscapes."""

from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from .checks import FileChecksMixin


@DATASETS.register_module()
class HMSACityscapesDataset(FileChecksMixin, CityscapesDataset):
    """mmseg's Cityscapes, which says at the start what is missing.

    Lists the same samples as :class:`mmseg.datasets.CityscapesDataset` and
    takes the same arguments. Where that one fails late, or trains on what it
    finds, this one refuses missing folders, an empty image list and images
    without label before the first iteration, with the config key and the
    value found; see :class:`FileChecksMixin`.
    """
