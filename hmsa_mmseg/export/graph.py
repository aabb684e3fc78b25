"""A segmentor as a function of one tensor, as exporters want it.

Shape shorthand in this module:
    N: batch, C: channels of an image, K: classes, H, W: input size.
"""

from __future__ import annotations

import copy

import torch
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmseg.models import SegDataPreProcessor
from torch import Tensor, nn

from hmsa_mmseg.compat import flips_channels_of

from ..models import MultiScaleAttentionSegmentor, prepare_for_inference
from ..models.preparation import input_channels
from ..models.tiled.decisions import classes_of
from .settings import ExportError, ExportSettings
from .traceable_layers import make_traceable


def copy_for_inference(
    model: MultiScaleAttentionSegmentor, scales: tuple[float, ...]
) -> MultiScaleAttentionSegmentor:
    """Copy a model to the CPU, to run it whole and in float32.

    The copy is in evaluation mode, without gradients and auxiliary heads, and
    its preprocessor does not pad.
    """
    model = copy.deepcopy(model)
    # Their weights would become part of the file.
    model.auxiliary_head = None
    model = revert_sync_batchnorm(model.cpu().float())
    model.test_cfg = ConfigDict(mode='whole', scales=scales)
    model.data_preprocessor.test_cfg = None
    return model.eval().requires_grad_(False)


class ExportGraph(nn.Module):
    """From images to logits or classes, all scales included.

    The model runs its plain path: the fast ones choose their steps by the
    size of the input, which a graph for several sizes cannot. They give the
    same numbers, up to rounding.

    Args:
        model (MultiScaleAttentionSegmentor): As of
            :func:`copy_for_inference`; left as it is.
        settings (ExportSettings): What is asked for.
    """

    def __init__(
        self, model: MultiScaleAttentionSegmentor, settings: ExportSettings
    ) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        model.decode_head.fast = False
        if settings.fold_bn:
            prepare_for_inference(model, fold_bn=True, channels_last=False)
        make_traceable(model)
        self.normalise = None if settings.raw is None else Normalise(model)
        self.model = model
        self.channels = input_channels(model)
        self.classes = settings.classes
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map images to logits (N, K, H, W), float32, or classes (N, H, W).

        Images have shape (N, C, H, W), float32 or uint8 as the settings say;
        classes are uint8, int64 if there are more than 256.
        """
        if self.normalise is not None:
            image = self.normalise(image)
        seg_logits = self.model.encode_decode(image)
        if not self.classes:
            return seg_logits
        classes = classes_of(seg_logits, self.model.decode_head.threshold)
        is_small = seg_logits.shape[1] <= 256
        return classes.to(torch.uint8) if is_small else classes


def flips_channels(model: MultiScaleAttentionSegmentor) -> bool | None:
    """Whether a model's preprocessor reverses the order of the channels.

    None if it is no ``SegDataPreProcessor``.
    """
    preprocessor = model.data_preprocessor
    if not isinstance(preprocessor, SegDataPreProcessor):
        return None
    # It leaves images of other than three channels as they are.
    return flips_channels_of(preprocessor) and input_channels(model) == 3


class Normalise(nn.Module):
    """The part of ``SegDataPreProcessor`` that changes single pixels.

    Channels in the other order if it says so, float32, minus mean, by
    standard deviation. It does not pad. An ExportError is raised if the
    model's preprocessor is of another kind.
    """

    def __init__(self, model: MultiScaleAttentionSegmentor) -> None:
        super().__init__()
        preprocessor = model.data_preprocessor
        kind = type(preprocessor)
        # A subclass may do something else in a forward of its own.
        if kind.forward is not SegDataPreProcessor.forward:
            raise ExportError(
                'raw images need a model.data_preprocessor that does what '
                f'SegDataPreProcessor does, got {kind.__name__}; export '
                'without raw, for normalised images'
            )
        self.flips_channels = flips_channels(model)
        mean = getattr(preprocessor, 'mean', torch.zeros(1, 1, 1))
        std = getattr(preprocessor, 'std', torch.ones(1, 1, 1))
        self.register_buffer('mean', mean.clone())
        self.register_buffer('std', std.clone())

    def forward(self, image: Tensor) -> Tensor:
        """Map raw images to normalised ones, (N, C, H, W), float32."""
        image = image.float()
        if self.flips_channels:
            image = image.flip(1)
        return (image - self.mean) / self.std
