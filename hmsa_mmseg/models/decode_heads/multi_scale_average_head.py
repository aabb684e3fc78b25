"""Decode head that averages the scales.

Shape shorthand in this module:
    N: batch, K: output channels (classes), H, W: input size, h, w: head
    output size at one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ..fast.logit_rows import LogitRows, WeightedLogits
from ..fast.tracing import is_tracing
from ..scale_fusion import in_float32
from .base_multi_scale_head import BaseMultiScaleHead, ScaleFeats
from .scale_predictions import ScalePredictions
from .stages import at_input_size, combine_stages


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
            ends in a classifier ``conv_seg``, or of a cascade of them.
        **kwargs: ``num_classes``, ``reinit_classifier``, ``fast`` and
            ``init_cfg`` of :class:`BaseMultiScaleHead`.
    """

    def predict(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> Tensor:
        """Average the scales; memory does not grow with their number."""
        scale_logits = (
            (scale, self.forward_seg_heads(feats, False).seg_logits)
            for scale, feats in inputs
        )
        return self._mean(scale_logits, input_size)

    def predict_rows(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> LogitRows:
        """Compute all scales; rows of their mean are made when asked for."""
        if not self.fast or is_tracing():
            return super().predict_rows(inputs, input_size)
        scales, logits = zip(
            *(
                (
                    scale,
                    in_float32(
                        self.forward_seg_heads(feats, False).seg_logits
                    ),
                )
                for scale, feats in inputs
            )
        )
        return WeightedLogits(
            scales, logits, None, input_size, self.align_corners
        )

    def predict_scales(
        self, inputs: Iterable[ScaleFeats], input_size: Sequence[int]
    ) -> ScalePredictions:
        """Average the scales, and keep what each of them says."""
        scale_logits = [
            at_input_size(
                scale,
                self.forward_seg_heads(feats, False).seg_logits,
                input_size,
                self.align_corners,
            )
            for scale, feats in inputs
        ]
        scale_logits = torch.stack(scale_logits[::-1], dim=1)
        weights = torch.full_like(
            scale_logits[:, :, 0], 1 / scale_logits.shape[1]
        )
        return ScalePredictions(
            scale_logits.mean(dim=1), weights, weights[:, :0], scale_logits
        )

    def loss(
        self,
        inputs: Iterable[ScaleFeats],
        input_size: Sequence[int],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Compute the losses of the averaged outputs.

        Returns:
            dict[str, Tensor]: ``decode.*`` for the last seg head, ``aux.*``
            for the one before it in a cascade.
        """
        scales, seg_outputs = [], []
        for scale, feats in inputs:
            scales.append(scale)
            seg_outputs.append(
                self.forward_scale(scale, feats, with_classifier_feats=False)
            )
        stages = combine_stages(
            seg_outputs,
            lambda maps: self._mean(zip(scales, maps), input_size),
        )
        return self.loss_by_stage(stages, batch_data_samples)

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
