from .centroid_random_crop import CentroidRandomCrop
from .color_jitter import HMSAColorJitter
from .eval_at_input_size import EvalAtInputSize
from .label_companions import ApplyConfidence, UniteCoarseLabels
from .load_seg_labels import LoadSegLabels
from .mask_out_region import MaskOutRegion
from .random_gaussian_blur import RandomGaussianBlur

__all__ = [
    'ApplyConfidence',
    'CentroidRandomCrop',
    'EvalAtInputSize',
    'HMSAColorJitter',
    'LoadSegLabels',
    'MaskOutRegion',
    'RandomGaussianBlur',
    'UniteCoarseLabels',
]
