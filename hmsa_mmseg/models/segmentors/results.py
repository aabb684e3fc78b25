"""From logits at the network's input to an image's results.

As ``postprocess_result`` of mmseg's ``BaseSegmentor`` does: padding is cut
off, a flip undone, logits resized to the image's original size.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: size of the network's
    input, h, w: original size of an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from ..scale_fusion import in_float32
from ..tiled.decisions import Decision, decide
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..tiled.restored_logits import RestoredLogits
from ..utils.execution import class_dtype


def at_original_size(
    seg_logits: Tensor, meta: Mapping, align_corners: bool
) -> Tensor:
    """Bring logits (1, K, H, W) of one image to its original size.

    A view where nothing is to be computed.
    """
    size = meta['ori_shape']
    logits = WholeLogits(in_float32(seg_logits))
    return RestoredLogits(logits, meta, size, align_corners).all_rows()


def confidence_of(seg_logits: Tensor, classes: Tensor) -> Tensor:
    """Probability of the class that each pixel is given, rows at a time.

    Args:
        seg_logits (Tensor): As results hold them, shape (K, h, w): logits, or,
            if K is 1, the probability of the second of two classes.
        classes (Tensor): Shape (1, h, w), of any type; not always those that
            these logits alone would give.

    Returns:
        Tensor: float32, shape (1, h, w), in [0, 1], see :class:`Decision`.
    """
    return decide(
        WholeLogits(seg_logits[None]),
        classes.dtype,
        None,
        with_confidence=True,
        are_probabilities=len(seg_logits) == 1,
        classes=classes,
    ).confidence


def make_results(
    seg_logits: LogitRows,
    data_samples: OptSampleList,
    align_corners: bool,
    threshold: float | None,
    classes_only: bool = False,
    with_confidence: bool = False,
) -> SampleList:
    """Make the results of a batch.

    They equal what mmseg gives but for the copy that mmseg makes of a map that
    has its size already.

    Args:
        seg_logits (LogitRows): Shape (N, K, H, W), made or not.
        data_samples (list[SegDataSample], optional): Of the images. None
            leaves the maps as they are.
        align_corners (bool): As in ``F.interpolate``.
        threshold (float, optional): Of the probability, read if K is 1.
        classes_only (bool): Whether to leave out the logits, which are never
            whole at the image's size then. Defaults to False.
        with_confidence (bool): Whether to add it. Defaults to False.

    Returns:
        list[SegDataSample]: With ``pred_sem_seg`` (1, h, w), of
            :func:`class_dtype` if there is nothing else, and ``seg_logits``
            (K, h, w), probabilities if K is 1; if asked for ``confidence`` (1,
            h, w), float32.
    """
    num_images, channels, _, _ = seg_logits.shape
    is_binary = channels == 1
    dtype = seg_logits.dtype if is_binary else torch.int64
    if classes_only:
        dtype = class_dtype(channels)
    results = data_samples
    if data_samples is None:
        results = [SegDataSample() for _ in range(num_images)]
    for i, result in enumerate(results):
        logits = seg_logits.image(i)
        if data_samples is not None:
            meta = result.metainfo
            size = meta['ori_shape']
            logits = RestoredLogits(logits, meta, size, align_corners)
        if not classes_only:
            whole = in_float32(logits.all_rows())
            logits = WholeLogits(whole)
        set_decision(result, decide(logits, dtype, threshold, with_confidence))
        if not classes_only:
            whole = whole.sigmoid() if is_binary else _on_its_own(whole)
            result.set_data(dict(seg_logits=PixelData(data=whole[0])))
    return results


def set_decision(result: SegDataSample, decision: Decision) -> None:
    """Put the classes, and confidence if there is any, into a result."""
    maps = dict(pred_sem_seg=decision.classes, confidence=decision.confidence)
    result.set_data(
        {
            name: PixelData(data=data)
            for name, data in maps.items()
            if data is not None
        }
    )


def _on_its_own(x: Tensor) -> Tensor:
    """Copy a part of a larger map, which a result would keep and save."""
    is_whole = x.numel() * x.element_size() == x.untyped_storage().nbytes()
    return x if is_whole else x.clone(memory_format=torch.contiguous_format)
