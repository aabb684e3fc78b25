"""One prediction of a model with the maps of its scales.

Shape shorthand in this module:
    h, w: original size of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from torch import nn

from hmsa_mmseg.models.segmentors import (
    AccumulatingTTAModel,
    MultiScaleAttentionSegmentor,
)
from hmsa_mmseg.models.segmentors.results import confidence_of

_MEANS = ('scale_weights', 'scale_attn')
_MAPS = (*_MEANS, 'scale_sem_seg')


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without DDP and the like around it."""
    while is_model_wrapper(model):
        model = model.module
    return model


def segmentor_of(model: nn.Module) -> nn.Module:
    """The segmentor within wrappers and test-time augmentation."""
    model = unwrapped(model)
    while isinstance(model, BaseTTAModel):
        model = unwrapped(model.module)
    return model


def has_scale_maps(segmentor: nn.Module) -> bool:
    """Whether a segmentor can show what each of its scales says."""
    return (
        isinstance(segmentor, MultiScaleAttentionSegmentor)
        and segmentor.test_cfg.get('memory_budget') is None
    )


def predict_with_maps(
    model: nn.Module, predict: Callable, data: Mapping
) -> SampleList:
    """Predict, with all that can be drawn in the results.

    ``test_cfg.scale_maps`` is on meanwhile, or, with a memory budget,
    ``test_cfg.confidence``. Where the model has no scales, only
    ``confidence`` is added. With test-time augmentation, weights and
    attention are means over the views, classes of single scales those of the
    first view, and ``confidence`` is of the averaged probabilities.
    ``AccumulatingTTAModel`` keeps no view: there the first one is predicted
    once more for its maps, and ``confidence`` is of what it averages.

    Args:
        model (nn.Module): Of the runner.
        predict (Callable): Its ``val_step`` or ``test_step``.
        data (Mapping): A batch of the data loader.

    Returns:
        list[SegDataSample]: What ``predict`` returns.
    """
    outer, segmentor = unwrapped(model), segmentor_of(model)
    is_accumulating = isinstance(outer, AccumulatingTTAModel)
    with ExitStack() as stack:
        if isinstance(segmentor, MultiScaleAttentionSegmentor):
            name = 'scale_maps' if has_scale_maps(segmentor) else 'confidence'
            stack.enter_context(_switched_on(segmentor, name))
        if is_accumulating:
            stack.enter_context(_with_confidence(outer))
        if isinstance(outer, BaseTTAModel) and not is_accumulating:
            stack.enter_context(_averaging(outer))
        results = predict(data)
        if is_accumulating and has_scale_maps(segmentor):
            _add_first_view(outer, results, data)
    if outer is segmentor:
        for result in results:
            if 'confidence' not in result and 'seg_logits' in result:
                add_confidence(result, [result])
    return results


def add_confidence(result: SegDataSample, views: SampleList) -> None:
    """Add the mean probability of the class given.

    Args:
        result (SegDataSample): It gets ``confidence``, float32 (1, h, w).
        views (list[SegDataSample]): With ``seg_logits``, as mmseg gives them;
            for a result without augmentation the result itself.
    """
    classes = result.pred_sem_seg.data
    maps = [confidence_of(view.seg_logits.data, classes) for view in views]
    mean = torch.stack(maps).mean(dim=0)
    result.set_data(dict(confidence=PixelData(data=mean)))


@contextmanager
def _switched_on(segmentor: nn.Module, name: str) -> Iterator[None]:
    cfg = segmentor.test_cfg
    # A copy: the model's config may be shared with the runner's.
    segmentor.test_cfg = type(cfg)({**cfg, name: True})
    try:
        yield
    finally:
        segmentor.test_cfg = cfg


@contextmanager
def _with_confidence(model: AccumulatingTTAModel) -> Iterator[None]:
    confidence = model.confidence
    model.confidence = True
    try:
        yield
    finally:
        model.confidence = confidence


@contextmanager
def _averaging(model: BaseTTAModel) -> Iterator[None]:
    """Let a model of mmseg average the maps of the views it merges."""
    merge_preds = model.merge_preds

    def merge(views_of_images: Sequence[SampleList]) -> SampleList:
        # mmseg merges into one of the views.
        maps = [_mean_maps(views) for views in views_of_images]
        results = merge_preds(views_of_images)
        for views, result, fields in zip(views_of_images, results, maps):
            result.set_data(fields)
            result.pop('confidence', None)
            if 'seg_logits' in views[0]:
                add_confidence(result, views)
        return results

    model.merge_preds = merge
    try:
        yield
    finally:
        del model.merge_preds


def _mean_maps(views: SampleList) -> dict[str, PixelData]:
    fields = {}
    for name in _MEANS:
        if name in views[0]:
            maps = [view.get(name).data for view in views]
            fields[name] = PixelData(data=torch.stack(maps).mean(dim=0))
    if 'scale_sem_seg' in views[0]:
        fields['scale_sem_seg'] = views[0].scale_sem_seg
    return fields


def _add_first_view(
    model: AccumulatingTTAModel, results: SampleList, data: Mapping
) -> None:
    # New samples: those of the batch may be the results.
    samples = [
        SegDataSample(metainfo=sample.metainfo)
        for sample in data['data_samples'][0]
    ]
    view = dict(inputs=data['inputs'][0], data_samples=samples)
    for result, first in zip(results, model.module.test_step(view)):
        fields = {name: first.get(name) for name in _MAPS if name in first}
        result.set_data(fields)
        result.set_metainfo(dict(scales=first.scales))
