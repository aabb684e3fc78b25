"""Test-time augmentation that keeps no view but the one at hand.

Shape shorthand in this module:
    K: output channels (classes), h, w: original size of an image, R: rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import nn

from ..tiled.decisions import Decision, decide
from ..tiled.logit_rows import LogitRows, WholeLogits
from ..utils.execution import class_dtype
from .multi_scale_attention_segmentor import MultiScaleAttentionSegmentor
from .results import set_decision
from .view_sum import ViewSum

_AVERAGES = ('logits', 'softmax')


@MODELS.register_module()
class AccumulatingTTAModel(BaseTTAModel):
    """Average the views of an image, each added as soon as it is there.

    mmseg's ``SegTTAModel`` keeps the logits of all views, and results of
    each, until the last is there. Used in its place, with the same
    ``tta_pipeline``: ``tta_model = dict(type='AccumulatingTTAModel')``.

    Views of one size, as an image and its flip, are added up at that size
    where it is smaller than the image's own, and their sum is resized once,
    a few rows at a time: no logits of the size of the image are made. That
    needs ``average='logits'``, as the softmax of resized logits is not that
    of logits, resized.

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
        confidence (bool, optional): Whether results hold ``confidence``,
            float32 (1, h, w), the probability of the class that each pixel
            is given: the softmax of the mean of logits, or the mean
            probability. Defaults to None: as ``test_cfg.confidence`` of the
            segmentor says, which stock segmentors do not have.
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
        confidence: bool | None = None,
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
        if not (confidence is None or isinstance(confidence, bool)):
            raise ValueError(
                'tta_model.confidence must be True, False or None, got '
                f'{confidence!r}'
            )
        self.average = average
        self.confidence = confidence
        self.batch_pixels = batch_pixels

    def test_step(self, data: Mapping[str, Sequence[Sequence]]) -> SampleList:
        """Predict a batch of images from all their views.

        Args:
            data (dict): ``inputs`` and ``data_samples``, for each view a
                list over the images, as ``TestTimeAug`` and the default
                collation give them.

        Returns:
            list[SegDataSample]: The samples of the first view, with
            ``pred_sem_seg`` (1, h, w), ``confidence`` if it is asked for
            and, other than mmseg's, no logits of a single view.
        """
        views = list(zip(data['inputs'], data['data_samples']))
        num_images = len(views[0][0])
        results: list[Any] = [None] * num_images
        totals = [
            ViewSum(self.module.align_corners, self.average == 'softmax')
            for _ in range(num_images)
        ]
        for group in self._groups(views):
            batch = self.module.data_preprocessor(
                dict(
                    inputs=[x for inputs, _ in group for x in inputs],
                    data_samples=[s for _, samples in group for s in samples],
                ),
                False,
            )
            samples = batch['data_samples']
            seg_logits = self._logits(batch)
            for k, sample in enumerate(samples):
                i = k % num_images
                if results[i] is None:
                    results[i] = sample
                totals[i].add(seg_logits.image(k), sample.metainfo)
            # Memory that the next views may need.
            del seg_logits
        for result, total in zip(results, totals):
            set_decision(result, self._decide(total))
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

    def _logits(self, batch: Mapping) -> LogitRows:
        """Logits of a batch, made row by row where the segmentor can."""
        if isinstance(self.module, MultiScaleAttentionSegmentor):
            return self.module.predict_rows(batch['inputs'])
        metas = [sample.metainfo for sample in batch['data_samples']]
        return WholeLogits(self.module.inference(batch['inputs'], metas))

    def _decide(self, total: ViewSum) -> Decision:
        """Classes (1, h, w) of the mean, of the types that mmseg gives."""
        settings = {}
        if isinstance(self.module, MultiScaleAttentionSegmentor):
            settings = self.module.inference_settings._asdict()
        confidence = self.confidence
        if confidence is None:
            confidence = settings.get('confidence', False)
        mean = total.mean()
        channels = mean.shape[1]
        dtype = mean.dtype if channels == 1 else torch.int64
        head = self.module.decode_head
        # A cascade's is a list.
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        threshold = head.threshold if channels == 1 else None
        if settings.get('classes_only'):
            dtype = class_dtype(channels)
        return decide(
            mean,
            dtype,
            threshold,
            confidence,
            are_probabilities=self.average == 'softmax',
        )
