"""Proof that an exported file predicts what the model predicts.

Shape shorthand in this module:
    N: batch, C: channels of an image, K: classes, H, W: input size.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import MultiScaleAttentionSegmentor
from ..models.scale_fusion import Size
from ..models.tiled.decisions import classes_of
from .formats import Predictor
from .settings import ExportError, ExportSettings

# Of the largest logit. Runtimes differ from each other by 1e-4 of it at most
# where they round differently; with a wrong resize it is some per cent.
TOLERANCE = 1e-3


class Verification(NamedTuple):
    """How far a file agrees with the model on one batch.

    Attributes:
        batch (int): N.
        size (tuple[int]): (H, W).
        equal_pixels (float): Share of pixels with the same class.
        difference (float | None): Largest difference of logits, relative to
            the largest logit; None for a file that gives classes.
        num_found (int): How many classes the model finds in the batch.
        tied_pixels (float): Share of pixels where two classes tie, either
            of which may come first.
    """

    batch: int
    size: Size
    equal_pixels: float
    difference: float | None
    num_found: int
    tied_pixels: float

    def __str__(self) -> str:
        """Say it in one line."""
        height, width = self.size
        logits = ''
        if self.difference is not None:
            logits = (
                f', logits differ by {self.difference:.1e} of the largest '
                'at most'
            )
        return (
            f'{self.batch} x {height} x {width}: {self.equal_pixels:.4%} of '
            f'pixels of the same class{logits} ({self.num_found} '
            f'{"class" if self.num_found == 1 else "classes"} found, '
            f'{self.tied_pixels:.4%} of pixels tied)'
        )


def random_images(shape: Sequence[int], raw: str | None) -> Tensor:
    """Make random images, as the exported file takes them.

    They are smooth, as photographs are: runtimes round the coordinates of
    resizing differently, in white noise as far as in photographs a wrong
    formula for them would show. They are float32 of mean 0 and deviation 1 or
    less; raw ones of that type, with values of 0 to 255.
    """
    *start, height, width = shape
    generator = torch.Generator().manual_seed(0)
    coarse = [-(-side // 8) + 1 for side in (height, width)]
    image = torch.randn(*start, *coarse, generator=generator)
    image = F.interpolate(
        image, (height, width), mode='bilinear', align_corners=True
    )
    if raw is None:
        return image
    image = (image * 60 + 120).round().clamp(0, 255)
    return image.to(getattr(torch, raw))


def predict_expected(
    model: MultiScaleAttentionSegmentor,
    settings: ExportSettings,
    channels: int = 3,
) -> list[tuple[Tensor, Tensor]]:
    """Run the model on the images that a file is verified with.

    It is that of :func:`.graph.copy_for_inference`; raw images go through its
    own ``data_preprocessor``.

    Returns:
        list[tuple[Tensor, Tensor]]: Batches of images (N, C, H, W), as the
        file takes them, and their logits (N, K, H, W).

    Raises:
        ExportError: If the model fails, or gives values that are not finite.
    """
    height, width = settings.size
    batches = [settings.batch] if settings.batch else [1, 2]
    shapes = [(batch, (height, width)) for batch in batches]
    if settings.dynamic:
        # Odd, larger in height and smaller in width: there a size that became
        # a constant, or a multiple of the network's stride, shows.
        other = (height + height // 5 | 1, width - width // 9 | 1)
        shapes.append((batches[0], other))
    expected = []
    for batch, size in shapes:
        image = random_images((batch, channels, *size), settings.raw)
        try:
            with torch.no_grad():
                inputs = image
                if settings.raw is not None:
                    data = dict(inputs=list(image))
                    inputs = model.data_preprocessor(data)['inputs']
                seg_logits = model.encode_decode(inputs)
        # Operators have errors of their own.
        except Exception as error:
            raise ExportError(
                f'{_failed_module(model, error)} does not run on the CPU, '
                f'where models are exported: {type(error).__name__}: {error}'
            ) from error
        if not seg_logits.isfinite().all():
            raise ExportError(
                'the model itself gives logits that are not finite (NaN or '
                f'Inf) for random images of {size[0]} x {size[1]}, and '
                'nothing can be compared with them; expected weights that '
                'are all finite and that float32 suffices for'
            )
        expected.append((image, seg_logits))
    return expected


def _failed_module(model: nn.Module, error: Exception) -> str:
    """Name the innermost module of the traceback.

    Hooks would tell as well, but keep the model from its fast paths.
    """
    names = {id(module): name for name, module in model.named_modules()}
    failed = model
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get('self')
        failed = module if id(module) in names else failed
    return f'{names[id(failed)]} ({type(failed).__name__})'.strip()


def verify(
    predict: Predictor,
    expected: Iterable[tuple[Tensor, Tensor]],
    threshold: float | None,
    classes: bool,
) -> Iterator[Verification]:
    """Compare a file with the model, batch by batch.

    Args:
        predict (Callable): The file, loaded.
        expected (Iterable[tuple]): Images, and the model's logits of them.
        threshold (float, optional): Of the probability, if K is 1.
        classes (bool): Whether the file gives classes, not logits.

    Yields:
        Verification: For each batch that agrees; if one does not, an
        ExportError is raised.
    """
    for image, seg_logits in expected:
        where = ' x '.join(map(str, (len(image), *image.shape[2:])))
        try:
            with torch.no_grad():
                found = predict(image)
        # Each runtime has errors of its own.
        except Exception as error:
            raise ExportError(
                f'the exported file does not run for {where}: '
                f'{str(error).strip()[-600:]}'
            ) from error
        shape = tuple(seg_logits.shape)
        if classes:
            shape = (shape[0], *shape[2:])
        if tuple(found.shape) != shape:
            raise ExportError(
                f'the exported file gives shape {tuple(found.shape)} for '
                f'{where}, expected {shape}'
            )
        yield _compare(found, seg_logits, threshold)


def _compare(
    found: Tensor, expected: Tensor, threshold: float | None
) -> Verification:
    """Compare logits or classes (N, H, W) with the model's logits."""
    largest = expected.abs().amax().clamp(min=1e-12)
    difference = None
    if found.ndim == 4:
        difference = float((found - expected).abs().amax() / largest)
        found = classes_of(found, threshold)
    classes = classes_of(expected, threshold)
    is_other = found.long() != classes.long()
    if expected.shape[1] == 1:
        margin = (expected[:, 0] - torch.tensor(threshold).logit()).abs()
    else:
        first, second = expected.topk(2, dim=1).values.unbind(dim=1)
        margin = first - second
    # Where two classes tie, rounding decides.
    is_tied = margin <= TOLERANCE * largest
    result = Verification(
        batch=len(expected),
        size=tuple(expected.shape[2:]),
        equal_pixels=1 - float(is_other.double().mean()),
        difference=difference,
        num_found=len(classes.unique()),
        tied_pixels=float(is_tied.double().mean()),
    )
    # Also a difference that is not a number.
    is_off = difference is not None and not difference <= TOLERANCE
    if is_off or bool((is_other & ~is_tied).any()):
        raise ExportError(
            'the exported file does not predict what the model does: '
            f'{result}; expected {TOLERANCE:g} or less, and other classes '
            'only where two tie'
        )
    return result
