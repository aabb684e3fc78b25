from . import pipeline_errors  # noqa: F401  (names images)
from .autolabel import AutoLabelDataset
from .camvid import HMSACamVidDataset
from .checks import FileChecksMixin
from .cityscapes import CityscapesCoarseDataset, HMSACityscapesDataset
from .cityscapes_autolabel import CityscapesAutoLabelDataset
from .class_uniform_dataset import ClassUniformDataset
from .folder import HMSAFolderDataset
from .mapillary import HMSAMapillaryDataset
from .samplers import ClassUniformSampler
from .transforms import (
    ApplyConfidence,
    CentroidRandomCrop,
    EvalAtInputSize,
    HMSAColorJitter,
    LoadSegLabels,
    MaskOutRegion,
    RandomGaussianBlur,
    UniteCoarseLabels,
)
from .wrappers import ConcatDataset, leaf_datasets

__all__ = [
    'ApplyConfidence',
    'AutoLabelDataset',
    'CentroidRandomCrop',
    'CityscapesAutoLabelDataset',
    'CityscapesCoarseDataset',
    'ClassUniformDataset',
    'ClassUniformSampler',
    'ConcatDataset',
    'EvalAtInputSize',
    'FileChecksMixin',
    'HMSACamVidDataset',
    'HMSACityscapesDataset',
    'HMSAColorJitter',
    'HMSAFolderDataset',
    'HMSAMapillaryDataset',
    'LoadSegLabels',
    'MaskOutRegion',
    'RandomGaussianBlur',
    'UniteCoarseLabels',
    'leaf_datasets',
]
