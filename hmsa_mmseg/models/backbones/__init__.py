from .single_resize_hrnet import SingleResizeHRNet

__all__ = ['SingleResizeHRNet']
