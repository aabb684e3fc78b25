"""TorchScript files of mmseg's own encoder-decoders, for one input size.

Shape shorthand in this module:
    N: batch, C: channels of an image, K: classes, H, W: input size.
"""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path

import torch
from mmengine.model import revert_sync_batchnorm
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from ..models.inference.preparation import input_channels
from ..utils import atomic_file
from ..version import __version__
from .graph import script_size_check
from .reference import predict_expected, random_images
from .settings import ExportError, ExportSettings
from .torch_files import load_torch, torchscript_bytes
from .verification import TOLERANCE


class EncoderDecoderGraph(nn.Module):
    """From normalised images to logits of their size, without post-processing.

    Args:
        model (EncoderDecoder): On the CPU and in evaluation mode.
        settings (ExportSettings): With ``size`` and ``batch``, both fixed.
    """

    def __init__(
        self, model: EncoderDecoder, settings: ExportSettings
    ) -> None:
        super().__init__()
        self.model = model
        self.metas = [dict(img_shape=tuple(settings.size))] * settings.batch
        self.check_size = script_size_check(settings)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K, H, W)."""
        return self.model.encode_decode(self.check_size(image), self.metas)


def export_encoder_decoder(
    model: EncoderDecoder, path: str | os.PathLike, size: tuple[int, int]
) -> float:
    """Write TorchScript that sees one image of one size as a whole.

    The file is loaded again and compared with the model, on another image
    than it was traced with, before it takes its place.

    Args:
        model (EncoderDecoder): With its weights; left as it is.
        path (str | os.PathLike): The file. What stood there stays if
            anything fails.
        size (tuple[int]): (H, W).

    Returns:
        float: The largest difference of logits, relative to the largest
        logit.

    Raises:
        ExportError: If the model cannot be traced, or the file does not
            predict what the model predicts.
        OSError: If the file cannot be written.
    """
    if not isinstance(model, EncoderDecoder):
        raise ExportError(
            f'{type(model).__name__} is no EncoderDecoder of mmseg, and it '
            'is not known how to trace it'
        )
    settings = ExportSettings(format='torchscript', size=size, batch=1)
    model = copy.deepcopy(model).cpu().float()
    # Their weights would become part of the file.
    model.auxiliary_head = None
    model = revert_sync_batchnorm(model).eval().requires_grad_(False)
    graph = EncoderDecoderGraph(model, settings)
    channels = input_channels(model)
    ((image, seg_logits),) = predict_expected(graph, settings, channels)
    example = random_images(1, settings, channels).flip(2, 3)
    metadata = dict(
        producer=f'hmsa_mmseg {__version__}',
        torch=torch.__version__,
        size=list(size),
        batch=1,
        output='seg_logits',
    )
    try:
        with warnings.catch_warnings():
            # Sizes become constants of the file, as they are to.
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
            data = torchscript_bytes(graph, example, settings, metadata)
    # Layers that cannot be traced have errors of their own.
    except Exception as error:
        raise ExportError(
            f'{type(model).__name__} cannot be traced: {error}'
        ) from error
    differences = []

    def prove(written: Path) -> None:
        found = load_torch(written, 'torchscript')(image)
        largest = seg_logits.abs().amax().clamp(min=1e-12)
        difference = float((found - seg_logits).abs().amax() / largest)
        # Also one that is not a number.
        if not difference <= TOLERANCE:
            raise ExportError(
                'the file does not predict what the model does: logits '
                f'differ by {difference:.1e} of the largest, expected '
                f'{TOLERANCE:g} or less'
            )
        differences.append(difference)

    with atomic_file(path, prove) as file:
        file.write(data)
    return differences[0]
