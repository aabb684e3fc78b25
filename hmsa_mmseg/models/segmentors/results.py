"""From logits or classes at the network's input to an image's results.

As ``postprocess_result`` of mmseg's ``BaseSegmentor`` does: padding is cut
off, a flip undone, logits resized to the image's original size.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: size of the network's
    input, h, w: original size of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from ..fast.row_prediction import classes_of
from ..fast.tiles import row_tiles
from ..scale_fusion import resize


def without_padding(x: Tensor, meta: Mapping) -> Tensor:
    """Cut off what the preprocessor has padded.

    Args:
        x (Tensor): Any map of the network's input, shape (..., H, W).
        meta (Mapping): Of the image, with ``img_padding_size`` or
            ``padding_size``: left, right, top, bottom.

    Returns:
        Tensor: A view of ``x``.
    """
    left, right, top, bottom = _padding(meta)
    height, width = x.shape[-2:]
    return x[..., top : height - bottom, left : width - right]


def flip_dim(meta: Mapping) -> int | None:
    """Find the dimension along which an image has been flipped.

    Args:
        meta (Mapping): Of the image, with ``flip`` and ``flip_direction``.

    Returns:
        int | None: -1, -2, or None if it has not been flipped.

    Raises:
        ValueError: If the direction is another one.
    """
    if not meta.get('flip'):
        return None
    direction = meta.get('flip_direction')
    if direction not in ('horizontal', 'vertical'):
        raise ValueError(
            'flip_direction of an image must be horizontal or vertical, got '
            f'{direction!r}'
        )
    return -1 if direction == 'horizontal' else -2


def keeps_size(meta: Mapping, input_size: Sequence[int]) -> bool:
    """Whether an image without padding is of its original size."""
    left, right, top, bottom = _padding(meta)
    height, width = input_size
    shape = height - top - bottom, width - left - right
    return shape == tuple(meta['ori_shape'])


def at_original_size(
    seg_logits: Tensor, meta: Mapping, align_corners: bool
) -> Tensor:
    """Bring logits of one image to its original size.

    Args:
        seg_logits (Tensor): Shape (1, K, H, W).
        meta (Mapping): Of the image.
        align_corners (bool): As in ``F.interpolate``.

    Returns:
        Tensor: Shape (1, K, h, w); a view where nothing is to be computed.
    """
    seg_logits = without_padding(seg_logits, meta)
    dim = flip_dim(meta)
    if dim is not None:
        seg_logits = seg_logits.flip(dim)
    return resize(seg_logits, meta['ori_shape'], align_corners)


def classes_of_image(
    seg_logits: Tensor, threshold: float | None, dtype: torch.dtype
) -> Tensor:
    """Decide the classes of one image, a few rows at a time.

    Args:
        seg_logits (Tensor): Shape (1, K, h, w).
        threshold (float, optional): Of the probability, read if K is 1.
        dtype (torch.dtype): Of the result.

    Returns:
        Tensor: Shape (1, h, w).
    """
    _, channels, height, width = seg_logits.shape
    classes = seg_logits.new_empty(1, height, width, dtype=dtype)
    row_bytes = channels * width * seg_logits.element_size()
    for rows in row_tiles(height, row_bytes, seg_logits.device):
        classes[:, rows] = classes_of(seg_logits[:, :, rows], threshold)
    return classes


def confidence_of(seg_logits: Tensor, classes: Tensor) -> Tensor:
    """Probability of the class that each pixel is given, rows at a time.

    Args:
        seg_logits (Tensor): As results hold them, shape (K, h, w): logits,
            or, if K is 1, the probability of the second of two classes.
        classes (Tensor): Shape (1, h, w), of any type.

    Returns:
        Tensor: float32, shape (1, h, w), in [0, 1]. Below 0.5 for the second
        of two classes where ``threshold`` is below that, as mmseg's 0.3 is.
    """
    channels, height, width = seg_logits.shape
    confidence = seg_logits.new_empty(1, height, width, dtype=torch.float32)
    row_bytes = channels * width * seg_logits.element_size()
    for rows in row_tiles(height, row_bytes, seg_logits.device):
        tile, given = seg_logits[:, rows].float(), classes[:, rows].long()
        if channels == 1:
            tile = torch.where(given == 1, tile, 1 - tile)
        else:
            tile = tile.softmax(dim=0).gather(0, given)
        confidence[:, rows] = tile
    return confidence


def class_dtype(num_classes: int) -> torch.dtype:
    """The smallest type of classes that all of mmseg's tools take.

    Not uint8: ``IoUMetric`` casts labels to it, and an ``ignore_index`` of
    -1 or 1000 would become a class; ``CityscapesMetric`` writes label ids
    into it, one of which is -1.
    """
    return torch.int16 if num_classes <= 1 << 15 else torch.int32


def results_of_logits(
    seg_logits: Tensor,
    data_samples: OptSampleList,
    align_corners: bool,
    threshold: float | None,
    keep_logits: bool,
) -> SampleList:
    """Make results of logits.

    Args:
        seg_logits (Tensor): Shape (N, K, H, W).
        data_samples (list[SegDataSample], optional): Of the images. None
            leaves the maps as they are.
        align_corners (bool): As in ``F.interpolate``.
        threshold (float, optional): Of the probability, read if K is 1.
        keep_logits (bool): With logits, equal to what mmseg gives but for
            the copy that mmseg makes of a map that has its size already.
            Without them, classes are of :func:`class_dtype`.

    Returns:
        list[SegDataSample]: With ``pred_sem_seg`` (1, h, w) and, if asked
        for, ``seg_logits`` (K, h, w); probabilities if K is 1.
    """
    is_binary = seg_logits.shape[1] == 1
    dtype = class_dtype(seg_logits.shape[1])
    if keep_logits:
        dtype = seg_logits.dtype if is_binary else torch.int64
    results = data_samples
    if data_samples is None:
        results = [SegDataSample() for _ in seg_logits]
    for i, result in enumerate(results):
        logits = seg_logits[i : i + 1]
        if data_samples is not None:
            logits = at_original_size(logits, result.metainfo, align_corners)
        classes = classes_of_image(logits, threshold, dtype)
        if keep_logits:
            logits = logits.sigmoid() if is_binary else _on_its_own(logits)
            result.set_data(dict(seg_logits=PixelData(data=logits[0])))
        result.set_data(dict(pred_sem_seg=PixelData(data=classes)))
    return results


def results_of_classes(
    classes: Tensor, num_classes: int, data_samples: OptSampleList
) -> SampleList:
    """Make results of classes of images that keep their size.

    Args:
        classes (Tensor): Shape (N, H, W), of any integer type or bool.
        num_classes (int): As many there are.
        data_samples (list[SegDataSample], optional): Of the images.

    Returns:
        list[SegDataSample]: With ``pred_sem_seg`` (1, h, w).
    """
    classes = classes.to(class_dtype(num_classes))
    results = data_samples
    if data_samples is None:
        results = [SegDataSample() for _ in classes]
    for i, result in enumerate(results):
        one = classes[i : i + 1]
        if data_samples is not None:
            one = without_padding(one, result.metainfo)
            dim = flip_dim(result.metainfo)
            one = one if dim is None else one.flip(dim)
        result.set_data(dict(pred_sem_seg=PixelData(data=_on_its_own(one))))
    return results


def _padding(meta: Mapping) -> Sequence[int]:
    """Left, right, top and bottom padding of an image."""
    return meta.get('img_padding_size', meta.get('padding_size', [0] * 4))


def _on_its_own(x: Tensor) -> Tensor:
    """Copy a part of a larger map, which a result would keep and save."""
    is_whole = x.numel() * x.element_size() == x.untyped_storage().nbytes()
    return x if is_whole else x.clone(memory_format=torch.contiguous_format)
