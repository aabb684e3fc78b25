"""Models built from configs, and what is run with them.

Shape shorthand in this module:
    H, W: image size.
"""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from benchmarks.tta import views
from fusion.costs import plain_step, update_step
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.registry import MODELS
from torch import nn
from torch.overrides import TorchFunctionMode

from hmsa_mmseg.models.segmentors import AccumulatingTTAModel

from .models import crop_and_batch

#: Of ``tta_pipeline`` in mmseg's configs for Cityscapes.
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
FLIPS = (False, True)


class _HoldsOnMeta(TorchFunctionMode):
    """Takes every condition on values as met: on ``meta`` there are none.

    mmseg's sliding inference asserts that each pixel was seen.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Iterable[type],
        args: tuple = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        """Run a function of torch, but do not ask for a truth value."""
        if func is torch.Tensor.__bool__:
            return True
        return func(*args, **(kwargs or {}))


def build(
    cfg: Config, device: str, size: tuple[int, int] | None = None
) -> nn.Module:
    """Build a model with random weights; nothing is downloaded.

    Args:
        cfg (mmengine.Config): A whole config; it stays as it is.
        device (str): ``cpu``, ``cuda`` or ``meta``.
        size (tuple[int, int], optional): Size that images are padded to in
            training. Defaults to that of the config.

    Returns:
        nn.Module: In evaluation mode, without synchronised BN.
    """
    model_cfg = copy.deepcopy(cfg.model)
    model_cfg.pretrained = None
    model_cfg.backbone.pop('init_cfg', None)
    if size is not None:
        model_cfg.data_preprocessor.size = size
    # Some constructors read values, which `meta` does not have.
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).eval()
    return model.to(device)


def inference(
    model: nn.Module, mode: str, size: tuple[int, int], device: str
) -> Callable[[], Any]:
    """Return a test of one image, from uint8 to classes, as a function.

    Args:
        model (nn.Module): From :func:`build`.
        mode (str): Key of :data:`models.MODES`.
        size (tuple[int, int]): H and W.
        device (str): Where model and image are.

    Returns:
        Callable: Without arguments: preprocessor, forward, post-processing.
    """
    if mode == 'ms_flip':
        tester = SegTTAModel(model).eval()
        data = views(size, RATIOS, FLIPS, device)
        return lambda: tester.test_step(data)
    if mode == 'hierarchical_flip':
        tester = AccumulatingTTAModel(model).eval()
        data = views(size, (1.0,), FLIPS, device)
        return lambda: tester.test_step(data)
    data = views(size, (1.0,), (False,), device)
    one = {key: value[0] for key, value in data.items()}
    if mode == 'hierarchical' or 'scales' not in (model.test_cfg or {}):
        return lambda: model.test_step(dict(one))

    def at_one_scale() -> Any:
        scales = model.test_cfg.scales
        model.test_cfg.scales = (1.0,)
        try:
            return model.test_step(dict(one))
        finally:
            model.test_cfg.scales = scales

    return at_one_scale


@contextmanager
def counting(cfg: Config) -> Iterator[None]:
    """Within it the model of a config runs on ``meta`` without gradients."""
    slides = (cfg.model.get('test_cfg') or {}).get('mode') == 'slide'
    with torch.no_grad(), _HoldsOnMeta() if slides else nullcontext():
        yield


@contextmanager
def last_view_alone(model: nn.Module, count: int) -> Iterator[None]:
    """Leave out the forward passes of all views but the last, to count memory.

    The last is the largest, and finds the results of the others held, which
    are all of one size: no other can take more.

    Args:
        model (nn.Module): A segmentor of mmseg, on ``meta``.
        count (int): Views of one image.
    """
    whole, calls = model.test_step, itertools.count(1)

    def test_step(data: Mapping) -> list:
        if next(calls) == count:
            return whole(data)
        (sample,) = (one.clone() for one in data['data_samples'])
        size = sample.ori_shape
        logits = torch.empty(model.out_channels, *size, device='meta')
        classes = torch.empty(1, *size, dtype=torch.long, device='meta')
        sample.seg_logits = PixelData(data=logits)
        sample.pred_sem_seg = PixelData(data=classes)
        return [sample]

    model.test_step = test_step
    try:
        yield
    finally:
        del model.test_step


def training_on_meta(cfg: Config) -> Callable[[], None]:
    """Return forward and backward at a config's crop and batch, to count.

    The losses are torch's cross-entropy: those of mmseg read values.
    """
    size, batch_size = crop_and_batch(cfg)
    model = build(cfg, 'meta', size).train()
    return plain_step(model, batch_size, size)


def training(
    cfg: Config,
    size: tuple[int, int],
    batch_size: int,
    device: str,
    dtype: str,
) -> Callable[[], Any]:
    """Return a training step of a config, with its losses and optimizer.

    Args:
        cfg (mmengine.Config): A whole config.
        size (tuple[int, int]): H and W of the crop.
        batch_size (int): Images in a step.
        device (str): ``cpu`` or ``cuda``.
        dtype (str): ``float32``, or ``amp`` for mmengine's
            ``AmpOptimWrapper`` with float16, which needs a GPU.

    Returns:
        Callable: Without arguments.
    """
    model = build(cfg, device, size).train()
    wrapper = dict(
        type='OptimWrapper' if dtype == 'float32' else 'AmpOptimWrapper'
    )
    for key in ('optimizer', 'paramwise_cfg', 'constructor', 'clip_grad'):
        if key in cfg.optim_wrapper:
            wrapper[key] = cfg.optim_wrapper[key]
    optim_wrapper = build_optim_wrapper(model, wrapper)
    return update_step(model, optim_wrapper, batch_size, size)
