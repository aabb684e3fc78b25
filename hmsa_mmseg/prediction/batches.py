"""Predictions of a row of images, several at once where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmseg.structures import SegDataSample

from .errors import InferError, in_one_line
from .failures import Failures
from .pipeline import Loaded
from .predicting import Predictor


def predict_all(
    loaded: Iterable[tuple[Any, Loaded | InferError]],
    predictor: Predictor,
    batch_size: int,
    failures: Failures,
) -> Iterator[tuple[Any, Loaded, SegDataSample]]:
    """Predict images in their order.

    Args:
        loaded (Iterable[tuple]): Pairs of anything and a prepared image, or
            what is wrong with it.
        predictor (Predictor): The model.
        batch_size (int): Images that run at once, if they are of one shape:
            none is padded for another.
        failures (Failures): Told of images that cannot be done.

    Yields:
        tuple: What came with the image, the image, its result.

    Raises:
        InferError: If an image cannot be done and none is to be skipped.
    """
    for batch in _batches(loaded, batch_size, failures):
        images = [image for _, image in batch]
        results = _predict(images, predictor, failures)
        for (key, image), result in zip(batch, results):
            if result is not None:
                yield key, image, result


def _batches(
    loaded: Iterable[tuple[Any, Loaded | InferError]],
    batch_size: int,
    failures: Failures,
) -> Iterator[list[tuple[Any, Loaded]]]:
    batch: list[tuple[Any, Loaded]] = []
    for key, image in loaded:
        if isinstance(image, InferError):
            # What was loaded before is done before the run may end.
            if batch:
                yield batch
                batch = []
            failures.add(image)
            continue
        if batch and image.inputs.shape != batch[0][1].inputs.shape:
            yield batch
            batch = []
        batch.append((key, image))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _predict(
    images: Sequence[Loaded], predictor: Predictor, failures: Failures
) -> list[SegDataSample | None]:
    try:
        return predictor(images)
    # Out of memory, an image too small for the network: of any type.
    except Exception as error:
        # Not the error itself, which holds on to the memory of the call.
        problem = in_one_line(error)
    if len(images) > 1:
        alone = [_predict([image], predictor, failures) for image in images]
        return [result for [result] in alone]
    height, width = images[0].inputs.shape[-2:]
    failures.add(
        InferError(
            f'{images[0].data_sample.img_path}: cannot be predicted at '
            f'{height}x{width}: {problem}'
        )
    )
    return [None]
