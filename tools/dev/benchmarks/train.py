"""Suite `train`: whole training steps, against mmseg's at a single scale.

On a GPU also the authors' recipes at their true size, with what CUDA's
allocator hands out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.config import Config

from .cases import (
    SMALL_SIZE,
    Case,
    Options,
    logits_difference,
    must_be_equal,
)
from .networks import (
    CITYSCAPES,
    MAPILLARY,
    STOCK,
    config_for,
    images,
    labels,
)
from .page import Limit, size_text
from .steps import network_and_loss, num_classes, training_step

TITLE = 'Training'
NOTE = """\
Forward, losses, backward and update at scales 0.5 and 1.0 (mmseg: at 1.0),
in float32 on a CPU and under bfloat16 autocast on a GPU. Difference: of loss
and gradients to those of the plain way, in float64, relative to the largest.
GB on the GPU: above weights, gradients and momentum that were there before."""
LIMITS = [
    Limit('time of a step', 'cross-entropy', 'fast', 'ratio', 1.0),
]
CROSS_ENTROPY = 'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024'
CHECKPOINTED = 'fast, checkpointing'
# Losses -> config, images, their size on a GPU, and what is compared; the
# first way is what all else is over.
RECIPES = {
    'cross-entropy': (
        CROSS_ENTROPY,
        1,
        (1024, 2048),
        (STOCK, 'plain', 'fast'),
    ),
    'Cityscapes, RMI': (
        *(CITYSCAPES, 1, (1024, 2048)),
        ('literal', 'plain', 'fast', CHECKPOINTED),
    ),
    'Mapillary, RMI': (
        *(MAPILLARY, 2, (1024, 1024)),
        ('literal', 'plain', 'fast', CHECKPOINTED),
    ),
}
# Of the loss, and of the largest gradient of each parameter, in float64. The
# plain RMI loss and its formula solve in different ways.
TOLERANCE = 1e-6


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared; checkpointing and Mapillary on a GPU alone."""
    on_gpu = options.device == 'cuda'
    found = {}
    for title, (recipe, batch, size, ways) in RECIPES.items():
        if not on_gpu:
            if recipe == MAPILLARY:
                continue
            size = options.timed_size
            ways = [way for way in ways if way != CHECKPOINTED]
        if options.is_small:
            size = SMALL_SIZE
        found[f'{title}, {batch} x {size_text(size)}'] = partial(
            _case, recipe, batch, size, ways, options
        )
    return found


def _case(
    recipe: str,
    batch: int,
    size: tuple[int, int],
    ways: tuple[str, ...],
    options: Options,
) -> Case:
    cfg = config_for(options.size, recipe)
    light = config_for(options.size, recipe, checkpoint=('scales', 'backbone'))
    autocast = torch.bfloat16 if options.device == 'cuda' else None
    steps = {
        way: training_step(
            way.partition(', checkpointing')[0],
            light if way == CHECKPOINTED else cfg,
            *(batch, size, options, autocast),
        )
        for way in ways
    }
    return Case(steps, check=partial(check, cfg, ways, options))


def check(
    cfg: Config, ways: tuple[str, ...], options: Options
) -> dict[str, float]:
    """Compare with the plain way; stops if a gradient differs.

    Of the backbone, to whose gradients all else contributes. mmseg's model
    is another function, which suite ``inference`` compares.
    """
    value, expected = _gradients('plain', cfg, options)
    found = {}
    for way in ways:
        if way in (STOCK, 'plain', CHECKPOINTED):
            continue
        loss, grads = _gradients(way, cfg, options)
        found[way] = max(
            logits_difference(loss, value),
            *(
                logits_difference(grads[key], grad)
                for key, grad in expected.items()
            ),
        )
    must_be_equal('train', found, TOLERANCE)
    return found


def _gradients(
    name: str, cfg: Any, options: Options
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a step in float64, without dropout."""
    device = options.device
    network, loss = network_and_loss(
        name, cfg, SMALL_SIZE, options, device, torch.float64
    )
    for module in network.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    label = labels(2, SMALL_SIZE, num_classes(cfg), 12).to(device)
    value = loss(images(2, SMALL_SIZE, device).double(), label)
    value.backward()
    grads = {
        key: param.grad
        for key, param in network.named_parameters()
        if key.startswith('backbone.') and param.grad is not None
    }
    return value.detach(), grads
