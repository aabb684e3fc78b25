"""The maps of one result as arrays, checked against each other.

Shape shorthand in this module:
    H, W: original size of the image, S: scales.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mmseg.structures import SegDataSample


class SampleMaps(NamedTuple):
    """What a ``SegDataSample`` holds; None is what it does not hold.

    Attributes:
        prediction (ndarray): Classes, int32 (H, W).
        ground_truth (ndarray | None): int32 (H, W).
        scales (tuple[float]): Lowest first; none of a stock model.
        scale_classes (ndarray | None): Of each scale alone, int32 (S, H, W).
        scale_weights (ndarray | None): float32 (S, H, W), sum 1.
        scale_attn (ndarray | None): float32 (S - 1, H, W).
        confidence (ndarray | None): float32 (H, W).
    """

    prediction: np.ndarray
    ground_truth: np.ndarray | None
    scales: tuple[float, ...]
    scale_classes: np.ndarray | None
    scale_weights: np.ndarray | None
    scale_attn: np.ndarray | None
    confidence: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        return self.prediction.shape

    @property
    def winning_scale(self) -> np.ndarray | None:
        """Index of the scale of the largest weight, int64 (H, W).

        -1 where several scales have it, as everywhere in a plain average.
        """
        weights = self.scale_weights
        if weights is None:
            return None
        winner = weights.argmax(axis=0)
        winner[(weights == weights.max(axis=0)).sum(axis=0) > 1] = -1
        return winner


def read_sample(
    data_sample: SegDataSample,
    num_classes: int,
    ignore_index: int = 255,
) -> SampleMaps:
    """Take the maps out of a result; all but ``pred_sem_seg`` are optional.

    A head with a single channel has two classes. A ValueError, which names
    the image, is raised if a map is of another size than the prediction, or
    holds what is no class.
    """
    where = data_sample.get('img_path') or 'an image'
    if 'pred_sem_seg' not in data_sample:
        raise ValueError(f'{where}: a result without pred_sem_seg')
    maps = {
        name: field_array(data_sample, field)
        for name, field in (
            ('prediction', 'pred_sem_seg'),
            ('ground_truth', 'gt_sem_seg'),
            ('scale_classes', 'scale_sem_seg'),
            ('scale_weights', 'scale_weights'),
            ('scale_attn', 'scale_attn'),
            ('confidence', 'confidence'),
        )
    }
    size = maps['prediction'].shape[-2:]
    for name, found in maps.items():
        if found is None:
            continue
        what = f'{where}: {name.replace("_", " ")}'
        if found.shape[-2:] != size:
            raise ValueError(
                f'{what} of {found.shape[-2:]} (height, width), but a '
                f'prediction of {tuple(size)}; expected the same size, that '
                'of the image file. In the pipeline of the data set, '
                'LoadAnnotations must come after Resize'
            )
        if name in ('prediction', 'ground_truth', 'scale_classes'):
            ignored = ignore_index if name == 'ground_truth' else None
            found = _classes(found, what, num_classes, ignored)
        is_stack = name.startswith('scale_')
        maps[name] = found if is_stack else found[0]
    return SampleMaps(scales=tuple(data_sample.get('scales') or ()), **maps)


def field_array(data_sample: SegDataSample, field: str) -> np.ndarray | None:
    """Give a field of a result as an array, (any, H, W); None if not there."""
    if field not in data_sample:
        return None
    array = data_sample.get(field).data
    if not isinstance(array, np.ndarray):
        if array.is_floating_point():
            array = array.float()  # numpy has no bfloat16
        array = array.detach().cpu().numpy()
    return array[None] if array.ndim == 2 else array


def _classes(
    array: np.ndarray, what: str, num_classes: int, ignore_index: int | None
) -> np.ndarray:
    # mmseg gives the classes of a head with a single channel as floats.
    array = array.astype(np.int32)
    wrong = (array < 0) | (array >= num_classes)
    ignored = ''
    if ignore_index is not None:
        wrong &= array != ignore_index
        ignored = f' or {ignore_index}'
    if wrong.any():
        raise ValueError(
            f'{what} with values {np.unique(array[wrong])[:5].tolist()}; '
            f'expected 0 to {num_classes - 1}{ignored}, one for each class '
            'name'
        )
    return array
