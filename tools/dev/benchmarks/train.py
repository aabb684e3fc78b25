"""Suite `train`: whole training steps, against mmseg's at a single scale.

On a GPU also the authors' recipes at their true size, with what CUDA's
allocator hands out, CUDA graphs, channels_last and Inductor.
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
    graph_difference,
    logits_difference,
    must_be_equal,
)
from .networks import (
    CITYSCAPES,
    CROSS_ENTROPY,
    MAPILLARY,
    STOCK,
    config_for,
    images,
    labels,
)
from .page import Limit, size_text
from .steps import (
    TrainingStep,
    can_have_graphs,
    network_and_loss,
    num_classes,
)

TITLE = 'Training'
NOTE = """\
Forward, losses, backward and update at scales 0.5 and 1.0 (mmseg: at 1.0),
in float32 on a CPU and, where nothing is said, under bfloat16 autocast on a
GPU. Difference: of loss and gradients to those of the plain way, in float64,
relative to the largest. Graph: `train_cfg.cuda_graph`; its loss and gradients
to those of an eager step, and those of two eager steps, of the parameter that
is farthest. GB on the GPU: above weights, gradients and momentum that were
there before, with what graphs keep between steps. Until started: when the host
has started a step; kernels: time and number of all that the GPU runs, by
torch.profiler. float32 is torch's default: TF32 in convolutions alone."""
GRAPH = 'fast + graph'
CHECKPOINTED = 'fast + checkpointing'
# Beginnings of titles.
ONE = 'cross-entropy, 1 x 1024x2048'
TWO = 'cross-entropy, 2 x 512x1024'
RMI = 'Cityscapes, RMI'
BOTH_GRAPHED = (GRAPH, 'ms', None, f'{STOCK} + graph')
LIMITS = [
    Limit('time of a step', 'cross-entropy', 'fast', 'ratio', 1.0),
    *(
        Limit(*figure, on_gpu=True)
        for figure in [
            ("step over mmseg's, both eager", ONE, 'fast', 'ratio', 1.4),
            ("step over mmseg's, both eager", TWO, 'fast', 'ratio', 1.6),
            ("graphed step over mmseg's eager one", ONE, GRAPH, 'ratio', 1.0),
            ("graphed step over mmseg's eager one", TWO, GRAPH, 'ratio', 0.8),
            ("step over mmseg's, both graphed", ONE, *BOTH_GRAPHED),
            ("step over mmseg's, both graphed", TWO, *BOTH_GRAPHED),
            ('graphed step over the literal one', RMI, GRAPH, 'ratio', 0.5),
            ("peak over mmseg's", ONE, 'fast', 'cuda_gb', 1.0, STOCK),
        ]
    ),
]
# What is most wanted goes first; the first of all is what others are over.
SINGLE_SCALE = (
    *(STOCK, 'fast', GRAPH, f'{STOCK} + graph'),
    *('fast + graph + channels_last', 'fast + channels_last', 'plain'),
)
RECIPE = ('literal', 'fast', GRAPH, 'plain', CHECKPOINTED)
# Title, config, images, their size on a GPU, and what is compared.
CASES = [
    ('cross-entropy', CROSS_ENTROPY, 1, (1024, 2048), SINGLE_SCALE),
    (RMI, CITYSCAPES, 1, (1024, 2048), RECIPE),
    # From here on, on a GPU alone.
    ('cross-entropy', CROSS_ENTROPY, 2, (512, 1024), SINGLE_SCALE),
    ('Mapillary, RMI', MAPILLARY, 2, (1024, 1024), RECIPE),
    *(
        ('float32, cross-entropy', CROSS_ENTROPY, batch, size, SINGLE_SCALE)
        for batch, size in ((1, (1024, 2048)), (2, (512, 1024)))
    ),
    (
        *('compiled, cross-entropy', CROSS_ENTROPY, 2, (512, 1024)),
        (STOCK, 'fast', 'fast + compile'),
    ),
]
# Of the loss, and of the largest gradient of each parameter, in float64. The
# plain RMI loss and its formula solve in different ways.
TOLERANCE = 1e-6


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared; on a CPU two cases at a smaller size."""
    on_gpu = options.device == 'cuda'
    found = {}
    for title, recipe, batch, size, ways in CASES if on_gpu else CASES[:2]:
        if not on_gpu:
            size, left_out = options.timed_size, ['checkpointing']
            if not options.is_small:
                left_out.append('channels_last')
            ways = [
                way for way in ways if way.split(' + ')[-1] not in left_out
            ]
        if not can_have_graphs(options):
            ways = [way for way in ways if 'graph' not in way]
        if options.is_small:
            size = SMALL_SIZE
        has_half = on_gpu and 'float32' not in title
        found[f'{title}, {batch} x {size_text(size)}'] = partial(
            *(_case, recipe, batch, size, ways, options),
            torch.bfloat16 if has_half else None,
            # On a GPU the tests compare the ways of the other.
            is_checked=title == RMI or not on_gpu,
        )
    return found


def _case(
    recipe: str,
    batch: int,
    size: tuple[int, int],
    ways: tuple[str, ...],
    options: Options,
    autocast: torch.dtype | None,
    is_checked: bool,
) -> Case:
    cfg = config_for(options.size, recipe)
    steps = {
        way: TrainingStep(way, cfg, batch, size, options, autocast)
        for way in ways
    }
    later = {
        way: partial(
            graph_difference,
            steps[way.replace(' + graph', '')].gradients,
            steps[way].gradients,
        )
        for way in ways
        if 'graph' in way
    }
    checks = partial(check, cfg, ways, options) if is_checked else None
    return Case(steps, check=checks, found_later=later)


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
        if way in (STOCK, 'plain') or '+' in way:
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
    network, loss = network_and_loss(name, cfg, SMALL_SIZE, options, device)
    network.double()
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
