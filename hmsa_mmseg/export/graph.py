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

from ..models import MultiScaleAttentionSegmentor, prepare_for_inference
from ..models.inference.preparation import input_channels
from .settings import ExportError, ExportSettings
from .traceable_layers import make_traceable


def copy_for_inference(
    model: MultiScaleAttentionSegmentor, scales: tuple[float, ...]
) -> MultiScaleAttentionSegmentor:
    """Copy a model to the CPU, to run it whole and in float32.

    Args:
        model (MultiScaleAttentionSegmentor): Left as it is.
        scales (tuple[float]): Relative image sizes.

    Returns:
        MultiScaleAttentionSegmentor: In evaluation mode, without gradients
        and auxiliary heads.
    """
    model = copy.deepcopy(model)
    # Their weights would become part of the file.
    model.auxiliary_head = None
    model = revert_sync_batchnorm(model.cpu().float())
    model.test_cfg = ConfigDict(mode='whole', scales=scales)
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
        self.classes = settings.classes
        self.threshold = model.decode_head.threshold
        self.check_size = None
        if settings.format == 'torchscript':
            self.check_size = script_size_check(settings)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Predict.

        Args:
            image (Tensor): Shape (N, C, H, W), float32 or uint8 as the
                settings say.

        Returns:
            Tensor: Logits, shape (N, K, H, W), float32, or classes, shape
            (N, H, W), uint8, int64 if there are more than 256.
        """
        if self.check_size is not None:
            image = self.check_size(image)
        if self.normalise is not None:
            image = self.normalise(image)
        seg_logits = self.model.encode_decode(image)
        if not self.classes:
            return seg_logits
        num_channels = self.model.out_channels
        if num_channels == 1:
            is_foreground = seg_logits.sigmoid()[:, 0] > self.threshold
            return is_foreground.to(torch.uint8)
        classes = seg_logits.argmax(dim=1)
        return classes.to(torch.uint8) if num_channels <= 256 else classes


def flips_channels(model: MultiScaleAttentionSegmentor) -> bool | None:
    """Whether a model's preprocessor reverses the order of the channels.

    Args:
        model (MultiScaleAttentionSegmentor): Its ``data_preprocessor`` is
            read.

    Returns:
        bool | None: None if that is no ``SegDataPreProcessor``.
    """
    flips = getattr(model.data_preprocessor, 'channel_conversion', None)
    # It leaves images of other than three channels as they are.
    return None if flips is None else flips and input_channels(model) == 3


class Normalise(nn.Module):
    """The part of ``SegDataPreProcessor`` that changes single pixels.

    Channels in the other order if it says so, float32, minus mean, by
    standard deviation. It does not pad.

    Args:
        model (MultiScaleAttentionSegmentor): Its ``data_preprocessor`` is
            read.

    Raises:
        ExportError: If that is of another kind.
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


def script_size_check(settings: ExportSettings) -> nn.Module | None:
    """Make what stops a TorchScript graph that gets another size.

    ONNX and torch.export check the sizes of inputs themselves. A trace does
    not, and gives wrong maps where a size became a constant in it.

    Args:
        settings (ExportSettings): With the sizes.

    Returns:
        nn.Module | None: Gives its input back or raises an error; None if
        all sizes are open.
    """
    height, width = (0, 0) if settings.dynamic else settings.size
    batch = settings.batch or 0
    if not (batch or height):
        return None
    return torch.jit.script(_SizeCheck(batch, height, width))


class _SizeCheck(nn.Module):
    """Pass images of the right size; 0 stands for any."""

    def __init__(self, batch: int, height: int, width: int) -> None:
        super().__init__()
        self.batch = batch
        self.height = height
        self.width = width

    def forward(self, image: Tensor) -> Tensor:
        """Return the image or raise an error."""
        batch, height, width = image.size(0), image.size(2), image.size(3)
        if self.batch != 0 and batch != self.batch:
            raise ValueError(f'exported for {self.batch} images, got {batch}')
        if self.height != 0 and height != self.height:
            raise ValueError(
                f'exported for images {self.height} high, got {height}'
            )
        if self.width != 0 and width != self.width:
            raise ValueError(
                f'exported for images {self.width} wide, got {width}'
            )
        return image
