from .checks import FileChecksMixin
from .cityscapes import HMSACityscapesDataset

__all__ = ['FileChecksMixin', 'HMSACityscapesDataset']
