"""Decode head that averages the scales.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: head
    output size at one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from .base_multi_scale_head import BaseMultiScaleHead, ScaleFeats
from .combining import at_input_size
from .scale_maps import ScaleMaps


@MODELS.register_module()
class MultiScaleAverageHead(BaseMultiScaleHead):
    """Any mmseg decode head, with the mean of the scales' logits.

    The baseline of `Hierarchical Multi-Scale Attention
    <https://arxiv.org/abs/2005.10821>`_, Table 1: the head is trained at
    ``scales=(1.0,)``, as in an :class:`EncoderDecoder`, whose checkpoints it
    takes, and tested at several. The mean is one of logits, as the authors'
    (NVIDIA/semantic-segmentation, utils/trnval_utils.py,
    ``eval_minibatch``), while mmseg's ``--tta`` averages probabilities.
    Trained at several scales, the losses are those of the mean.

    Args:
        seg_head (dict | list[dict]): Config of a decode head of mmseg that
            ends in a classifier, or of a cascade of them.
        **kwargs: ``loss_scale``, ``num_classes``, ``reinit_classifier``,
            ``fast`` and ``init_cfg`` of :class:`BaseMultiScaleHead`.
    """

    def combine(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> Tensor:
        """Average the scales; memory does not grow with their number."""
        return self._mean(self._scale_logits(inputs), input_size)

    def _scale_logits(
        self, inputs: Iterable[ScaleFeats]
    ) -> Iterator[tuple[float, Tensor]]:
        for scale, feats in inputs:
            yield scale, self.forward_seg_heads(feats, False).seg_logits

    def predict_scale_maps(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> ScaleMaps:
        """Average the scales, and keep what each of them says."""
        scale_logits = [
            at_input_size(scale, logits, input_size, self.align_corners)
            for scale, logits in self._scale_logits(inputs)
        ]
        scale_logits = torch.stack(scale_logits[::-1], dim=1)
        weights = torch.full_like(
            scale_logits[:, :, 0], 1 / scale_logits.shape[1]
        )
        return ScaleMaps(
            scale_logits.mean(dim=1), weights, weights[:, :0], scale_logits
        )

    def loss(
        self,
        inputs: Iterable[ScaleFeats],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute the losses of the averaged outputs."""
        scales, seg_outputs = [], []
        for scale, feats in inputs:
            scales.append(scale)
            seg_outputs.append(
                self.forward_scale(scale, feats, with_classifier_feats=False)
            )
        return self.losses_of(
            scales,
            seg_outputs,
            lambda maps: self._mean(zip(scales, maps), input_size),
            input_size,
            batch_data_samples,
        )

    def _mean(
        self,
        scale_logits: Iterable[tuple[float, Tensor]],
        input_size: Sequence[int],
    ) -> Tensor:
        """Average ``(scale, logits)`` to (N, K, H, W), one after the other."""
        total, count = None, 0
        for scale, logits in scale_logits:
            logits = at_input_size(
                scale, logits, input_size, self.align_corners
            )
            total = logits if total is None else total + logits
            count += 1
        if count == 0:
            raise ValueError('the mean needs at least one scale, got none')
        return total if count == 1 else total / count
