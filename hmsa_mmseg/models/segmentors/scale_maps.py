"""Results that show what each scale says and how far it is trusted.

With ``model.test_cfg.scale_maps=True`` a result holds, beside what it always
holds, at the image's original size (h, w), S scales, lowest first:

- ``scale_weights`` (S, h, w), float32: the part of each scale in the result,
  in [0, 1], with sum 1 in each pixel;
- ``scale_attn`` (S - 1, h, w), float32: the attention of each scale but the
  highest, in [0, 1], of heads that have one between neighbours;
- ``scale_sem_seg`` (S, h, w), int16: the classes that each scale alone gives;
- ``confidence`` (1, h, w), float32: the probability of the class given;
- the scales themselves as ``scales`` among its meta information.

It is made for looking at a model: a call takes the memory of S + 1
predictions.

Shape shorthand in this module:
    N: batch, K: output channels (classes), S: scales, A: scales with an
    attention, H, W: size of the network's input, h, w: original size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from ..decode_heads.scale_predictions import ScalePredictions
from ..fast.decisions import class_dtype, decide
from ..fast.logit_rows import WholeLogits
from .results import (
    at_original_size,
    results_of_logits,
    results_of_rows,
)
from .slide import mean_over_windows

if TYPE_CHECKING:
    from .multi_scale_attention_segmentor import MultiScaleAttentionSegmentor
    from .settings import InferenceSettings

#: The fields that a result has beside those of mmseg.
FIELDS = ('scale_weights', 'scale_attn', 'scale_sem_seg', 'confidence')


def predict_with_scale_maps(
    model: MultiScaleAttentionSegmentor,
    inputs: Tensor,
    settings: InferenceSettings,
    data_samples: OptSampleList = None,
) -> SampleList:
    """Predict, and keep what each scale says.

    Args:
        model (nn.Module): A :class:`MultiScaleAttentionSegmentor`.
        inputs (Tensor): Images, shape (N, 3, H, W).
        settings (InferenceSettings): Its ``test_cfg``.
        data_samples (list[SegDataSample], optional): Of the images.

    Returns:
        list[SegDataSample]: With the fields that this module lists. Windows
        of ``slide`` are averaged, each scale's logits and weights as the
        combined logits are.
    """
    results = data_samples
    if data_samples is None:
        results = [SegDataSample() for _ in inputs]
    # One after the other: the maps are many.
    for i, result in enumerate(results):
        stacked = _stacked(model, inputs[i : i + 1], settings)
        if data_samples is not None:
            stacked = at_original_size(
                stacked, result.metainfo, model.align_corners
            )
        _fill(result, stacked, model, settings)
    return results


def _stacked(
    model: MultiScaleAttentionSegmentor,
    inputs: Tensor,
    settings: InferenceSettings,
) -> Tensor:
    """All maps of one image in one, (1, K + S + A + S * K, H, W)."""

    def predict(images: Tensor, _: int = 0) -> Tensor:
        with settings.autocast(images.device):
            predictions = model.decode_head.predict_scales(
                model._extract_scales(images, reversed(settings.scales)),
                images.shape[2:],
            )
        return predictions.stacked()

    if settings.mode == 'whole':
        return predict(inputs)
    num_scales = len(settings.scales)
    channels = (
        model.out_channels * (1 + num_scales)
        + num_scales
        + model.decode_head.num_scale_attns(num_scales)
    )
    return mean_over_windows(
        predict, inputs, channels, settings.crop_size, settings.stride
    )


def _fill(
    result: SegDataSample,
    stacked: Tensor,
    model: MultiScaleAttentionSegmentor,
    settings: InferenceSettings,
) -> None:
    """Put the maps of one image, at its original size, into its result."""
    head = model.decode_head
    num_scales = len(settings.scales)
    maps = ScalePredictions.unstacked(
        stacked, num_scales, head.num_scale_attns(num_scales)
    )
    logits = maps.seg_logits
    make = results_of_logits
    if settings.classes_only:
        logits, make = WholeLogits(logits), results_of_rows
    [prediction] = make(
        logits, None, model.align_corners, head.threshold, with_confidence=True
    )
    result.set_data(dict(prediction.items()))
    dtype = class_dtype(model.out_channels)
    classes = [
        decide(WholeLogits(logits), dtype, head.threshold).classes
        for logits in maps.scale_logits.unbind(1)
    ]
    result.set_data(
        dict(
            scale_weights=PixelData(data=maps.scale_weights[0].clone()),
            scale_sem_seg=PixelData(data=torch.cat(classes)),
        )
    )
    if maps.scale_attn.shape[1]:
        attn = maps.scale_attn[0].clone()
        result.set_data(dict(scale_attn=PixelData(data=attn)))
    result.set_metainfo(dict(scales=settings.scales))
