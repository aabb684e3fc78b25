from .apply_confidence import ApplyConfidence
from .centroid_random_crop import CentroidRandomCrop
from .color_jitter import HMSAColorJitter
from .eval_at_input_size import EvalAtInputSize
from .load_seg_labels import LoadSegLabels
from .mask_out_region import MaskOutRegion
from .random_gaussian_blur import RandomGaussianBlur
from .unite_coarse_labels import UniteCoarseLabels

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
