"""Suite `recipes`: training steps of the authors' recipes, in half precision.

On a GPU at their true size, with what CUDA's allocator hands out. On the CPU
it only runs, at a small size and in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch

from .measure import interleaved, machine, median_ms
from .networks import CITYSCAPES, MAPILLARY, config_for
from .options import Options, progress
from .recipe_steps import TrainingStep
from .report import Figure, size_text
from .timing import peak_cuda_bytes

TITLE = 'Training recipes'
# Recipe -> config, images, their size.
RECIPES = {
    'Cityscapes': (CITYSCAPES, 1, (1024, 2048)),
    'Mapillary': (MAPILLARY, 2, (1024, 1024)),
}
WAYS = {
    'literal': ('literal', ()),
    'plain': ('plain', ()),
    'fast': ('fast', ()),
    'fast, checkpointing': ('fast', ('scales', 'backbone')),
}
SMALL_SIZE = (64, 128)


def _measure(title: str, way: str, options: Options) -> dict[str, Any]:
    """Run one recipe in one way; ``error`` if the memory is too small."""
    progress(f'recipes: {title}, {way}')
    recipe, batch, size = RECIPES[title]
    if options.is_small or options.device == 'cpu':
        size = SMALL_SIZE
    name, checkpoint = WAYS[way]
    cfg = config_for(
        'small' if size == SMALL_SIZE else 'full',
        recipe,
        checkpoint=checkpoint,
    )
    found: dict[str, Any] = dict(
        size=list(size), batch_size=batch, ms=None, cuda_gb=None, error=None
    )
    try:
        step = TrainingStep(name, cfg, batch, size, options, torch.bfloat16)
        warmup = 0 if options.is_small else 2
        times = interleaved({name: step}, options.rounds, warmup)
        found['ms'] = median_ms(times[name])
        if options.device == 'cuda':
            found['cuda_gb'] = peak_cuda_bytes(step) / 1e9
    except torch.cuda.OutOfMemoryError:
        found['error'] = 'out of memory'
    return found


def run(options: Options) -> dict[str, Any]:
    """Measure; the gradients are compared in suite ``train``.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    return dict(
        machine=machine(),
        rounds=options.rounds,
        device=options.device,
        results={
            title: {way: _measure(title, way, options) for way in WAYS}
            for title in RECIPES
        },
    )


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table; on the CPU there are none."""
    rows = []
    for title, ways in results['results'].items():
        for way, row in ways.items():
            if row['cuda_gb'] is not None and way.startswith('fast'):
                literal = ways['literal']['cuda_gb']
                rows.append(
                    Figure(
                        f'peak of a training step on the GPU, {title} '
                        f'{row["batch_size"]} x {size_text(row["size"])}'
                        + way.removeprefix('fast'),
                        'literal'
                        + (f' ({literal:.1f} GB)' if literal else ''),
                        row['cuda_gb'],
                        'GB',
                        detail=f'{row["ms"]:.0f} ms',
                    )
                )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        "Forward, losses, backward and update with the authors' recipes, "
        'under bfloat16 autocast; median of '
        f'{results["rounds"]} steps. GB: the most that the allocator of CUDA '
        'handed out during a step, above weights, gradients and momentum '
        'that were there before.',
    ]
    if results['device'] == 'cpu':
        lines.append(
            '\nThis was a CPU: the sizes are small, and the figures say '
            'nothing beyond that it runs.'
        )
    for title, ways in results['results'].items():
        row = next(iter(ways.values()))
        lines += [
            '',
            f'| {title}, {row["batch_size"]} x {size_text(row["size"])} '
            '| ms | GB |',
            '| :-- | --: | --: |',
        ]
        for way, row in ways.items():
            ms = row['error'] or f'{row["ms"]:.0f}'
            peak = '' if row['cuda_gb'] is None else f'{row["cuda_gb"]:.2f}'
            lines.append(f'| {way} | {ms} | {peak} |')
    return '\n'.join(lines)
