"""Suite `train`: whole training steps, against mmseg's at a single scale."""

from __future__ import annotations

from typing import Any

import torch

from .measure import machine
from .networks import CITYSCAPES, config_for, images, labels
from .options import Options, progress
from .recipe_steps import (
    STOCK,
    TrainingStep,
    network_and_loss,
    num_classes,
)
from .reference import logits_difference, must_be_equal
from .report import Figure, ratio_text, shares_table, size_text
from .stopwatch import operator_shares, profile
from .timing import peak_cuda_bytes, time_variants

TITLE = 'Training'
CROSS_ENTROPY = 'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024'
SIZES = {
    ('full', 'cpu'): (256, 512),
    ('full', 'cuda'): (1024, 2048),
    ('small', 'cpu'): (64, 128),
    ('small', 'cuda'): (64, 128),
}
# Losses -> config and what is compared; the first is what all else is over.
RECIPES = {
    'cross-entropy': (CROSS_ENTROPY, (STOCK, 'plain', 'fast')),
    'RMI, as the authors': (CITYSCAPES, ('literal', 'plain', 'fast')),
}
CHECK_SIZE = (64, 128)
# Of the loss, and of the largest gradient of each parameter, in float64. The
# plain RMI loss and its formula solve in different ways.
TOLERANCE = 1e-6


def _gradients(
    name: str, cfg: Any, options: Options
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a step in float64, without dropout."""
    device = options.device
    network, loss = network_and_loss(
        name, cfg, CHECK_SIZE, options, device, torch.float64
    )
    for module in network.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    label = labels(2, CHECK_SIZE, num_classes(cfg), 12).to(device)
    value = loss(images(2, CHECK_SIZE, device).double(), label)
    value.backward()
    grads = {
        key: param.grad
        for key, param in network.named_parameters()
        if key.startswith('backbone.') and param.grad is not None
    }
    return value.detach(), grads


def check(cfg: Any, names: tuple, options: Options) -> dict[str, float]:
    """Compare with the plain way; stops if a gradient differs.

    Of the backbone, to whose gradients all else contributes. mmseg's model
    is another function, which suite ``inference`` compares.
    """
    value, expected = _gradients('plain', cfg, options)
    found = {}
    for name in names:
        if name in (STOCK, 'plain'):
            continue
        loss, grads = _gradients(name, cfg, options)
        found[f'{name}, loss'] = logits_difference(loss, value)
        found[f'{name}, gradients'] = max(
            logits_difference(grads[key], grad)
            for key, grad in expected.items()
        )
    must_be_equal('train', found, TOLERANCE)
    return found


def run(options: Options) -> dict[str, Any]:
    """Check, then measure.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    size = SIZES[options.size, options.device]
    on_gpu = options.device == 'cuda'
    results = {}
    for title, (name, names) in RECIPES.items():
        progress(f'train: {title}')
        cfg = config_for(options.size, name)
        results[title] = dict(difference=check(cfg, names, options))
        autocast = torch.bfloat16 if on_gpu else None
        steps = {
            key: TrainingStep(key, cfg, 1, size, options, autocast)
            for key in names
        }
        results[title]['times'] = time_variants(
            steps, options.rounds, warmup=3 if on_gpu else 1
        )
        profiled = [key for key in names if key in (STOCK, 'fast')]
        results[title]['shares'] = {
            key: profile(steps[key], steps[key].parts(), calls=1)
            for key in profiled
        }
        results[title]['operators'] = {
            key: operator_shares(steps[key]) for key in profiled
        }
        if on_gpu:
            results[title]['cuda_gb'] = {
                key: peak_cuda_bytes(step) / 1e9 for key, step in steps.items()
            }
    return dict(
        machine=machine(),
        rounds=options.rounds,
        size=list(size),
        device=options.device,
        results=results,
    )


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    rows = []
    size = size_text(results['size'])
    for title, row in results['results'].items():
        first = next(iter(row['times']))
        time = row['times']['fast']
        rows.append(
            Figure(
                f'time of a training step, scales 0.5 + 1.0, {title}, {size}',
                first,
                time['wall_ratio']['median'],
                target=1.0 if first == STOCK else None,
                detail=f'{ratio_text(time["wall_ratio"])}; CPU time '
                f'{ratio_text(time["cpu_ratio"])}',
            )
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    on_gpu = results['device'] == 'cuda'
    lines = [
        f'One image of {size_text(results["size"])} at scales 0.5 and 1.0 '
        '(mmseg: at 1.0): forward, losses, backward and update, '
        f'{"bfloat16 autocast" if on_gpu else "float32"}. '
        'Before that, loss and gradients were checked to be those of the '
        'plain way, in float64. Literal: the same weights in the '
        "authors' order of operations, with their losses. Times: median of "
        f'{results["rounds"]} interleaved rounds, ratios with range.',
    ]
    for title, row in results['results'].items():
        lines += [
            '',
            f'| {title} | ms | over {next(iter(row["times"]))} | CPU time |'
            + (' GB |' if on_gpu else ''),
            '| :-- | --: | --: | --: |' + (' --: |' if on_gpu else ''),
        ]
        for name, time in row['times'].items():
            line = (
                f'| {name} | {time["wall_ms"]:.0f} '
                f'| {ratio_text(time["wall_ratio"])} '
                f'| {ratio_text(time["cpu_ratio"])} |'
            )
            if on_gpu:
                line += f' {row["cuda_gb"][name]:.2f} |'
            lines.append(line)
        lines += [
            '',
            f'Where the time goes ({title}), by part and by operator:',
            '',
            shares_table(row['shares']),
            '',
            shares_table(row['operators']),
        ]
    return '\n'.join(lines)
