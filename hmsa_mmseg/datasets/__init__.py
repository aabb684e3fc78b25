from .checks import FileChecksMixin
from .cityscapes import HMSACityscapesDataset
from .class_uniform_dataset import ClassUniformDataset
from .folder import HMSAFolderDataset
from .mapillary import HMSAMapillaryDataset
from .samplers import ClassUniformSampler
from .transforms import (
    CentroidRandomCrop,
    EvalAtInputSize,
    HMSAColorJitter,
    LoadSegLabels,
    RandomGaussianBlur,
)

__all__ = [
    'CentroidRandomCrop',
    'ClassUniformDataset',
    'ClassUniformSampler',
    'EvalAtInputSize',
    'FileChecksMixin',
    'HMSACityscapesDataset',
    'HMSAColorJitter',
    'HMSAFolderDataset',
    'HMSAMapillaryDataset',
    'LoadSegLabels',
    'RandomGaussianBlur',
]
