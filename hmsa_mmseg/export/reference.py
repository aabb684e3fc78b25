"""What the model itself predicts on the images that a file is verified with.

Shape shorthand in this module:
    N: batch, C: channels of an image, K: classes, H, W: input size.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import MultiScaleAttentionSegmentor
from .settings import ExportError, ExportSettings


class Reference(nn.Module):
    """A model with images as its exported file takes them.

    Raw ones go through its own ``data_preprocessor``, without padding.

    Args:
        model (MultiScaleAttentionSegmentor): As of
            :func:`.graph.copy_for_inference`; left as it is.
        raw (str, optional): As in the settings.
    """

    def __init__(
        self, model: MultiScaleAttentionSegmentor, raw: str | None
    ) -> None:
        super().__init__()
        self.model = model
        self.preprocessor = None
        if raw is not None:
            self.preprocessor = copy.deepcopy(model.data_preprocessor)
            # Where it says how to pad.
            self.preprocessor.test_cfg = None

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K, H, W)."""
        if self.preprocessor is not None:
            image = self.preprocessor(dict(inputs=list(image)))['inputs']
        return self.model.encode_decode(image)


def example_images(settings: ExportSettings, channels: int = 3) -> Tensor:
    """Make the random images that a graph is traced and first run with.

    Args:
        settings (ExportSettings): What is asked for.
        channels (int): Of an image. Defaults to 3.

    Returns:
        Tensor: Shape (N, C, H, W), of mean 0 and deviation 1 or less, or
        values of 0 to 255 if images are raw.
    """
    # torch.export makes a constant of a batch of one.
    return random_images(settings.batch or 2, settings, channels)


def random_images(
    batch: int,
    settings: ExportSettings,
    channels: int,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Make random images of ``settings.size``, or of ``size``.

    They are smooth, as photographs are: runtimes round the coordinates of
    resizing differently, in white noise as far as in photographs a wrong
    formula for them would show.
    """
    size = tuple(size or settings.size)
    generator = torch.Generator().manual_seed(0)
    coarse = [-(-side // 8) + 1 for side in size]
    image = torch.randn(batch, channels, *coarse, generator=generator)
    image = F.interpolate(image, size, mode='bilinear', align_corners=True)
    if settings.raw is None:
        return image
    image = (image * 60 + 120).round().clamp(0, 255)
    return image.to(getattr(torch, settings.raw))


def verification_shapes(
    settings: ExportSettings,
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the ``(batch, size)`` that a file is verified with.

    With variable sizes one of them is odd, larger in height and smaller in
    width: what became a constant, or a multiple of the network's stride,
    shows there.
    """
    size = tuple(settings.size)
    batches = [settings.batch] if settings.batch else [1, 2]
    for batch in batches:
        yield batch, size
    if settings.dynamic:
        height, width = size
        yield batches[0], (height + height // 5 | 1, width - width // 9 | 1)


def predict_expected(
    reference: nn.Module, settings: ExportSettings, channels: int = 3
) -> list[tuple[Tensor, Tensor]]:
    """Run the model on the images that a file is verified with.

    Args:
        reference (nn.Module): From images to logits (N, K, H, W).
        settings (ExportSettings): What is asked for.
        channels (int): Of an image. Defaults to 3.

    Returns:
        list[tuple[Tensor, Tensor]]: Batches of images, and their logits.

    Raises:
        ExportError: If the model fails, naming the module, or gives values
            that are not finite.
    """
    expected = []
    for batch, size in verification_shapes(settings):
        image = random_images(batch, settings, channels, size)
        with torch.no_grad(), _naming_the_failed(reference):
            seg_logits = reference(image)
        if not seg_logits.isfinite().all():
            raise ExportError(
                'the model itself gives logits that are not finite (NaN or '
                f'Inf) for random images of {size[0]} x {size[1]}, and '
                'nothing can be compared with them; expected weights that '
                'are all finite and that float32 suffices for'
            )
        expected.append((image, seg_logits))
    return expected


@contextmanager
def _naming_the_failed(model: nn.Module) -> Iterator[None]:
    """Name the module in which a model fails, if it does.

    Hooks would tell as well, but keep the model from its fast paths.
    """
    try:
        yield
    except Exception as error:
        names = {id(module): name for name, module in model.named_modules()}
        where = ''
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = frame.f_locals.get('self')
            if id(module) in names:
                where = f'{names[id(module)]} ({type(module).__name__})'
        raise ExportError(
            f'{where or type(model).__name__} does not run on the CPU, where '
            f'models are exported: {type(error).__name__}: {error}'
        ) from error
