"""HRNet that equals the original one at any input size."""

from __future__ import annotations

from mmseg.models.backbones import HRNet
from mmseg.models.utils import Upsample
from mmseg.registry import MODELS
from torch import nn


@MODELS.register_module()
class SingleResizeHRNet(HRNet):
    """mmseg's HRNet with a single resize where branches are fused.

    To add a lower branch to a higher one, mmseg enlarges it by 2^k and then
    resizes the result to the higher branch's size. The authors resize once,
    straight to that size (NVIDIA/semantic-segmentation, network/hrnetv2.py,
    ``HighResolutionModule.forward``), and so does this class. The two are
    bit-equal where height and width are multiples of 32, and differ
    elsewhere. Arguments and state-dict keys are those of mmseg's
    :class:`HRNet`, whose checkpoints load as they are.

    Args:
        *args: As in mmseg's :class:`HRNet`.
        **kwargs: As in mmseg's :class:`HRNet`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for module in list(self.modules()):
            for name, child in module.named_children():
                # The resize that follows in HRModule.forward stays.
                if isinstance(child, Upsample):
                    setattr(module, name, nn.Identity())

    def train(self, mode: bool = True) -> SingleResizeHRNet:
        """Set the mode, and return the module, which mmseg's HRNet omits."""
        super().train(mode)
        return self
