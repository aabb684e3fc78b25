from .any_size_beit import AnySizeBEiT
from .any_size_mae import AnySizeMAE
from .single_resize_hrnet import SingleResizeHRNet

__all__ = ['AnySizeBEiT', 'AnySizeMAE', 'SingleResizeHRNet']
