"""Test-time augmentation that keeps no view but the one at hand.

Shape shorthand in this module:
    K: output channels (classes), h, w: original size of an image, R: rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..fast.tiles import row_tiles
from .results import (
    at_original_size,
    classes_of_image,
    flip_dim,
    keeps_size,
    without_padding,
)

_AVERAGES = ('logits', 'softmax')


@MODELS.register_module()
class AccumulatingTTAModel(BaseTTAModel):
    """Average the views of an image, each added as soon as it is there.

    mmseg's ``SegTTAModel`` keeps the logits of all views, and results of
    each, until the last is there. Used in its place, with the same
    ``tta_pipeline``: ``tta_model = dict(type='AccumulatingTTAModel')``.

    Args:
        module (dict | nn.Module): The segmentor, an ``EncoderDecoder``.
        average (str): ``'logits'``, the mean of logits, as the authors take
            it (NVIDIA/semantic-segmentation, utils/trnval_utils.py,
            ``eval_minibatch``), or ``'softmax'``, that of probabilities, as
            ``SegTTAModel``. Defaults to 'logits'.
        batch_pixels (int): Views of one shape, such as an image and its
            flip, run in one batch as long as it has no more pixels than
            this; it saves time on a GPU that small images do not fill, and
            takes the memory of several. 0 runs each alone. Defaults to
            2**19, a batch of 512 x 1024.
        data_preprocessor (dict | nn.Module, optional): As in mmengine.
            Defaults to None.

    Raises:
        TypeError: If ``module`` is no ``EncoderDecoder``.
        ValueError: If another argument makes no sense.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        average: str = 'logits',
        batch_pixels: int = 2**19,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        if not isinstance(self.module, EncoderDecoder):
            raise TypeError(
                'tta_model.module must be an EncoderDecoder of mmseg, such '
                'as MultiScaleAttentionSegmentor; got '
                f'{type(self.module).__name__}'
            )
        if average not in _AVERAGES:
            raise ValueError(
                f'tta_model.average must be one of {list(_AVERAGES)}, got '
                f'{average!r}'
            )
        is_int = isinstance(batch_pixels, int)
        if not is_int or isinstance(batch_pixels, bool) or batch_pixels < 0:
            raise ValueError(
                'tta_model.batch_pixels must be an integer of 0 or more, got '
                f'{batch_pixels!r}'
            )
        self.average = average
        self.batch_pixels = batch_pixels

    def test_step(self, data: Mapping[str, Sequence[Sequence]]) -> SampleList:
        """Predict a batch of images from all their views.

        Args:
            data (dict): ``inputs`` and ``data_samples``, for each view a
                list over the images, as ``TestTimeAug`` and the default
                collation give them.

        Returns:
            list[SegDataSample]: The samples of the first view, with
            ``pred_sem_seg`` (1, h, w) and, other than mmseg's, no logits of
            a single view.
        """
        views = list(zip(data['inputs'], data['data_samples']))
        num_images = len(views[0][0])
        results: list[Any] = [None] * num_images
        totals: list[Tensor | None] = [None] * num_images
        for group in self._groups(views):
            batch = self.module.data_preprocessor(
                dict(
                    inputs=[x for inputs, _ in group for x in inputs],
                    data_samples=[s for _, samples in group for s in samples],
                ),
                False,
            )
            samples = batch['data_samples']
            seg_logits = self.module.inference(
                batch['inputs'], [sample.metainfo for sample in samples]
            )
            for k, sample in enumerate(samples):
                i = k % num_images
                if results[i] is None:
                    results[i] = sample
                totals[i] = self._add(
                    totals[i], seg_logits[k : k + 1], sample.metainfo
                )
            # Memory that the next views may need.
            del seg_logits
        for result, total in zip(results, totals):
            classes = self._classes(total.div_(len(views)))
            result.set_data(dict(pred_sem_seg=PixelData(data=classes)))
        return results

    def merge_preds(self, data_samples_list: Sequence[SampleList]) -> None:
        """Not called: views are merged one by one in :meth:`test_step`."""
        raise NotImplementedError(
            'AccumulatingTTAModel merges views in test_step'
        )

    def _groups(self, views: Sequence[tuple]) -> Iterator[list[tuple]]:
        """Views that run in one batch, in their order."""
        group: list[tuple] = []
        for view in views:
            images = [x for inputs, _ in [*group, view] for x in inputs]
            is_one_shape = len({tuple(x.shape) for x in images}) == 1
            pixels = sum(x.shape[-2] * x.shape[-1] for x in images)
            if group and not (is_one_shape and pixels <= self.batch_pixels):
                yield group
                group = []
            group.append(view)
        yield group

    def _add(
        self, total: Tensor | None, seg_logits: Tensor, meta: Mapping
    ) -> Tensor:
        """Add a view (1, K, H, W) to the sum (1, K, h, w), in place."""
        if total is None:
            total = seg_logits.new_zeros(
                (*seg_logits.shape[:2], *meta['ori_shape'])
            )
        align_corners = self.module.align_corners
        for rows, tile in _restored_tiles(seg_logits, meta, align_corners):
            if self.average == 'softmax':
                is_binary = tile.shape[1] == 1
                tile = tile.sigmoid() if is_binary else tile.softmax(dim=1)
            total[:, :, rows] += tile
        return total

    def _classes(self, mean: Tensor) -> Tensor:
        """Classes (1, h, w) of the mean, of the types that mmseg gives."""
        if mean.shape[1] > 1:
            return classes_of_image(mean, None, torch.int64)
        threshold = self.module.decode_head.threshold
        if self.average == 'softmax':
            return (mean[0] > threshold).to(mean)
        return classes_of_image(mean, threshold, mean.dtype)


def _restored_tiles(
    seg_logits: Tensor, meta: Mapping, align_corners: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of the original image and their logits (1, K, R, w)."""
    dim = None
    if keeps_size(meta, seg_logits.shape[2:]):
        # Flipped tile by tile.
        seg_logits, dim = without_padding(seg_logits, meta), flip_dim(meta)
    else:
        seg_logits = at_original_size(seg_logits, meta, align_corners)
    _, channels, height, width = seg_logits.shape
    row_bytes = channels * width * seg_logits.element_size()
    for rows in row_tiles(height, row_bytes, seg_logits.device):
        if dim == -2:
            source = slice(height - rows.stop, height - rows.start)
            yield rows, seg_logits[:, :, source].flip(dim)
        elif dim == -1:
            yield rows, seg_logits[:, :, rows].flip(dim)
        else:
            yield rows, seg_logits[:, :, rows]
