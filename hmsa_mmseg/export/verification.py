"""Proof that an exported file predicts what the model predicts.

Shape shorthand in this module:
    N: batch, C: channels of an image, K: classes, H, W: input size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.fast.decisions import classes_of
from .formats import Predictor
from .onnx_files import MAX_TRACED_OPSET
from .settings import FORMATS, ExportError, ExportSettings

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
    size: tuple[int, int]
    equal_pixels: float
    difference: float | None
    num_found: int
    tied_pixels: float

    def __str__(self) -> str:
        """Say it in one line."""
        height, width = self.size
        text = (
            f'{self.batch} x {height} x {width}: '
            f'{self.equal_pixels:.4%} of pixels of the same class'
        )
        if self.difference is not None:
            text += (
                f', logits differ by {self.difference:.1e} of the largest '
                'at most'
            )
        plural = 'class' if self.num_found == 1 else 'classes'
        return (
            f'{text} ({self.num_found} {plural} found, {self.tied_pixels:.4%} '
            'of pixels tied)'
        )


def verify(
    predict: Predictor,
    expected: Iterable[tuple[Tensor, Tensor]],
    threshold: float | None,
    settings: ExportSettings,
) -> Iterator[Verification]:
    """Compare a file with the model, batch by batch.

    Args:
        predict (Callable): The file, loaded.
        expected (Iterable[tuple]): Of :func:`predict_expected`.
        threshold (float, optional): Of the probability, if K is 1.
        settings (ExportSettings): What the file was exported with.

    Yields:
        Verification: For each batch that agrees.

    Raises:
        ExportError: If one does not.
    """
    for image, seg_logits in expected:
        shape = (len(image), *image.shape[2:])
        where = ' x '.join(map(str, shape))
        try:
            with torch.no_grad():
                found = predict(image)
        # Each runtime has errors of its own.
        except Exception as error:
            raise ExportError(
                f'the exported file does not run for {where}: '
                f'{str(error).strip()[-600:]}. {way_out(settings)}'
            ) from error
        yield _compare(found, seg_logits, threshold, where, settings)


def _compare(
    found: Tensor,
    expected: Tensor,
    threshold: float | None,
    where: str,
    settings: ExportSettings,
) -> Verification:
    """Compare a result with the logits (N, K, H, W) of the model."""
    shape = tuple(expected.shape)
    if settings.classes:
        shape = (shape[0], *shape[2:])
    if tuple(found.shape) != shape:
        raise ExportError(
            f'the exported file gives shape {tuple(found.shape)} for {where}, '
            f'expected {shape}. {way_out(settings)}'
        )
    largest = expected.abs().amax().clamp(min=1e-12)
    difference = None
    if not settings.classes:
        difference = float((found - expected).abs().amax() / largest)
        found = classes_of(found, threshold)
    classes = classes_of(expected, threshold)
    is_other = found.long() != classes.long()
    # Where two classes tie, rounding decides.
    is_tied = _margin(expected, threshold) <= TOLERANCE * largest
    is_wrong = is_other & ~is_tied
    # Also a difference that is not a number.
    is_off = difference is not None and not difference <= TOLERANCE
    result = Verification(
        batch=shape[0],
        size=shape[-2:],
        equal_pixels=1 - float(is_other.double().mean()),
        difference=difference,
        num_found=len(classes.unique()),
        tied_pixels=float(is_tied.double().mean()),
    )
    if is_off or bool(is_wrong.any()):
        raise ExportError(
            f'the exported file does not predict what the model does: '
            f'{result}; expected {TOLERANCE:g} or less, and other classes '
            f'only where two tie. {way_out(settings)}'
        )
    return result


def _margin(seg_logits: Tensor, threshold: float | None) -> Tensor:
    """How far the class of each pixel is from another one."""
    if seg_logits.shape[1] == 1:
        level = torch.tensor(threshold).logit()
        return (seg_logits[:, 0] - level).abs()
    best = seg_logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def way_out(settings: ExportSettings) -> str:
    """Say what else might be exported, for an error message.

    Args:
        settings (ExportSettings): What could not.

    Returns:
        str: A sentence without its full stop.
    """
    ways = []
    if settings.batch is None:
        ways.append('batch=1, as a layer may have made a constant of it')
    if settings.dynamic:
        ways.append('dynamic=False')
        height, width = settings.size
        ways.append(
            f'size={(2 * height, 2 * width)}, as a map at the lowest scale '
            'may have been a single pixel high or wide'
        )
    if settings.format == 'onnx' and settings.opset <= MAX_TRACED_OPSET:
        ways.append(
            f'opset={MAX_TRACED_OPSET + 1}, which another exporter writes'
        )
    others = set(FORMATS) - {settings.format}
    ways.append(f'format={" or ".join(sorted(others))}')
    return f'Try {"; ".join(ways)}'
