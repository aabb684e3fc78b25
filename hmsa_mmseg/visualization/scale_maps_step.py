"""One prediction of a model with the maps of its scales.

Shape shorthand in this module:
    h, w: original size of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import ismethod

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from torch import nn

from hmsa_mmseg.models.segmentors import (
    AccumulatingTTAModel,
    MultiScaleAttentionSegmentor,
)
from hmsa_mmseg.models.segmentors.results import confidence_of
from hmsa_mmseg.utils.unwrapping import segmentor_of, unwrapped

_MEANS = ('scale_weights', 'scale_attn')
_MAPS = (*_MEANS, 'scale_sem_seg')


def predict_with_maps(
    model: nn.Module, predict: Callable, data: Mapping
) -> SampleList:
    """Predict, with all that can be drawn in the results.

    ``test_cfg.scale_maps`` is on meanwhile. Where the model has no scales,
    only ``confidence`` is added. With test-time augmentation, weights and
    attention are means over the views, classes of single scales those of the
    first view, and ``confidence`` is of the averaged probabilities.
    ``AccumulatingTTAModel`` keeps no view: there the first one is predicted
    once more for its maps, and ``confidence`` is of what it averages.

    ``predict`` is the ``val_step`` or ``test_step`` of the runner's model.
    """
    outer, segmentor = unwrapped(model), segmentor_of(model)
    has_scales = isinstance(segmentor, MultiScaleAttentionSegmentor)
    is_accumulating = isinstance(outer, AccumulatingTTAModel)
    with ExitStack() as stack:
        if has_scales:
            cfg = {**segmentor.test_cfg, 'scale_maps': True}
            stack.enter_context(_replaced(segmentor, 'test_cfg', cfg))
        if is_accumulating:
            stack.enter_context(_replaced(outer, 'confidence', True))
        elif isinstance(outer, BaseTTAModel):
            merge = _merge_with_maps(outer.merge_preds)
            stack.enter_context(_replaced(outer, 'merge_preds', merge))
        results = predict(data)
        if is_accumulating and has_scales:
            _add_first_view(segmentor, results, data)
    if outer is segmentor:
        for result in results:
            if 'confidence' not in result and 'seg_logits' in result:
                add_confidence(result, [result])
    return results


def add_confidence(result: SegDataSample, views: SampleList) -> None:
    """Add the mean probability of the class given, float32 (1, h, w).

    Views have ``seg_logits``, as mmseg gives them; for a result without
    augmentation the view is the result itself.
    """
    classes = result.pred_sem_seg.data
    maps = [confidence_of(view.seg_logits.data, classes) for view in views]
    result.set_data(dict(confidence=_mean(maps)))


@contextmanager
def _replaced(owner: nn.Module, name: str, value: object) -> Iterator[None]:
    """Give an object another attribute or method for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if ismethod(before):
            delattr(owner, name)  # that of the class is there again
        else:
            setattr(owner, name, before)


def _merge_with_maps(merge_preds: Callable) -> Callable:
    """Let a model of mmseg average the maps of the views it merges."""

    def merge(views_of_images: Sequence[SampleList]) -> SampleList:
        # Before: mmseg merges into one of the views.
        maps = [_mean_maps(views) for views in views_of_images]
        results = merge_preds(views_of_images)
        for views, result, fields in zip(views_of_images, results, maps):
            result.set_data(fields)
            if 'seg_logits' in views[0]:
                add_confidence(result, views)
        return results

    return merge


def _mean_maps(views: SampleList) -> dict[str, PixelData]:
    fields = {name: views[0].get(name) for name in _MAPS if name in views[0]}
    for name in fields.keys() & {*_MEANS}:
        fields[name] = _mean([view.get(name).data for view in views])
    return fields


def _mean(maps: Sequence[torch.Tensor]) -> PixelData:
    return PixelData(data=torch.stack(maps).mean(dim=0))


def _add_first_view(
    segmentor: nn.Module, results: SampleList, data: Mapping
) -> None:
    # New samples: those of the batch may be the results.
    samples = [
        SegDataSample(metainfo=sample.metainfo)
        for sample in data['data_samples'][0]
    ]
    view = dict(inputs=data['inputs'][0], data_samples=samples)
    for result, first in zip(results, segmentor.test_step(view)):
        result.set_data({k: first.get(k) for k in _MAPS if k in first})
        result.set_metainfo(dict(scales=first.scales))
