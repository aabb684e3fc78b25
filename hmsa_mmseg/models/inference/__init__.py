from .preparation import prepare_for_inference

__all__ = ['prepare_for_inference']
