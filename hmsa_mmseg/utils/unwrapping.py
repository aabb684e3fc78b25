"""Models without what mmengine and PyTorch put around them."""

from __future__ import annotations

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return a model without DDP and the like around it."""
    while is_model_wrapper(model):
        model = model.module
    return model


def segmentor_of(model: nn.Module) -> nn.Module:
    """Return the segmentor within wrappers and test-time augmentation."""
    model = unwrapped(model)
    while isinstance(model, BaseTTAModel):
        model = unwrapped(model.module)
    return model
