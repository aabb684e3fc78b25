from .centroid_random_crop import CentroidRandomCrop
from .color_jitter import HMSAColorJitter
from .eval_at_input_size import EvalAtInputSize
from .load_seg_labels import LoadSegLabels
from .random_gaussian_blur import RandomGaussianBlur

__all__ = [
    'CentroidRandomCrop',
    'EvalAtInputSize',
    'HMSAColorJitter',
    'LoadSegLabels',
    'RandomGaussianBlur',
]
