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

from collections.abc import Callable

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from ..decode_heads.scale_maps import ScaleMaps
from ..tiled.decisions import decide
from ..tiled.logit_rows import WholeLogits
from ..utils.execution import class_dtype
from .results import at_original_size, make_results
from .settings import InferenceSettings
from .slide import mean_over_windows


def results_with_scale_maps(
    predict: Callable[[Tensor], Tensor],
    inputs: Tensor,
    data_samples: OptSampleList,
    settings: InferenceSettings,
    out_channels: int,
    align_corners: bool,
    threshold: float | None,
) -> SampleList:
    """Predict, and keep what each scale says, in the fields listed above.

    ``predict`` gives all maps of images (N, 3, H, W) in one, as
    :meth:`.ScaleMaps.stacked`. Windows of ``slide`` are averaged, each scale's
    logits and weights as the combined logits are.
    """
    results = data_samples
    if data_samples is None:
        results = [SegDataSample() for _ in inputs]
    # One after the other: the maps are many.
    for i, result in enumerate(results):
        image = inputs[i : i + 1]
        if settings.mode == 'whole':
            stacked = predict(image)
        else:
            stacked = mean_over_windows(
                predict, image, settings.crop_size, settings.stride
            )
        if data_samples is not None:
            stacked = at_original_size(stacked, result.metainfo, align_corners)
        maps = ScaleMaps.unstacked(stacked, len(settings.scales), out_channels)
        [prediction] = make_results(
            WholeLogits(maps.seg_logits),
            None,
            align_corners,
            threshold,
            settings.classes_only,
            with_confidence=True,
        )
        result.set_data(dict(prediction.items()))
        _set_scale_maps(result, maps, threshold)
        result.set_metainfo(dict(scales=settings.scales))
    return results


def _set_scale_maps(
    result: SegDataSample, maps: ScaleMaps, threshold: float | None
) -> None:
    """Put the maps of the scales of one image into its result."""
    dtype = class_dtype(maps.seg_logits.shape[1])
    classes = [
        decide(WholeLogits(logits), dtype, threshold).classes
        for logits in maps.scale_logits.unbind(1)
    ]
    fields = dict(
        scale_weights=maps.scale_weights[0].clone(),
        scale_sem_seg=torch.cat(classes),
    )
    if maps.scale_attn.shape[1]:
        fields['scale_attn'] = maps.scale_attn[0].clone()
    result.set_data(
        {name: PixelData(data=data) for name, data in fields.items()}
    )
