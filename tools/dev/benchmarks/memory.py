"""Suite `memory`: what tensors hold at once, counted on `meta`.

Nothing is computed: the figures are of the true size on every machine, and
the same on each.
"""

from __future__ import annotations

from typing import Any

import torch

from hmsa_mmseg.models.tiled.decisions import Decision, decide

from .measure import live_gb, machine
from .networks import (
    CITYSCAPES,
    MAPILLARY,
    build,
    config_for,
    images,
    set_fast,
)
from .options import Options, progress
from .recipe_steps import meta_step
from .reference import reference_networks
from .report import Figure, size_text

TITLE = 'Memory'
SIZES = dict(small=(64, 128), full=(1024, 2048))
SCALES = (0.5, 1.0, 2.0)
CHECKPOINT = ('scales', 'backbone')
# Recipe -> config, images, their size, the targets without and with
# checkpointing in GB (issue: training peak with half activations).
RECIPES = {
    'Cityscapes': (CITYSCAPES, 1, (1024, 2048), 8.8, 3.7),
    'Mapillary': (MAPILLARY, 2, (1024, 1024), 9.0, 3.8),
}


def _inference(options: Options) -> dict[str, float]:
    """Peak of one image at scales 0.5, 1 and 2, in GB."""
    size = SIZES[options.size]
    model = build(config_for(options.size), 'meta')
    x = images(1, size, 'meta')

    def run(fast: bool) -> None:
        set_fast(model, fast)
        model.encode_decode(x)

    functions = {
        name: lambda network=network: network(x)
        for name, network in reference_networks(options, model).items()
    }
    functions['plain'] = lambda: run(False)
    functions['fast'] = lambda: run(True)
    functions['fast, classes'] = lambda: classes(model, x)
    with torch.no_grad():
        return {
            name: live_gb(function) for name, function in functions.items()
        }


def classes(model: Any, x: torch.Tensor) -> Decision:
    """Predict classes alone, the fast way."""
    set_fast(model, True)
    return decide(model.predict_rows(x), torch.uint8, None)


def _training(options: Options) -> dict[str, dict]:
    """Peak of the recipes' training steps in GB, by way to run them."""
    found: dict[str, dict] = {}
    for title, (name, batch, size, *_) in RECIPES.items():
        if options.is_small:
            size = SIZES['small']
        cfg = config_for(options.size, name)
        light = config_for(options.size, name, checkpoint=CHECKPOINT)
        steps = dict.fromkeys(reference_networks_names(options), cfg)
        found[title] = dict(size=list(size), batch_size=batch, peak={})
        for way, cfg_of in (
            *steps.items(),
            ('fast', cfg),
            ('fast, checkpointing', light),
        ):
            progress(f'memory: training, {title}, {way}')
            for dtype in (torch.float32, torch.bfloat16):
                key = f'{way}, half' if dtype == torch.bfloat16 else way
                step = meta_step(
                    way.partition(',')[0], cfg_of, batch, size, options, dtype
                )
                found[title]['peak'][key] = live_gb(step)
    return found


def reference_networks_names(options: Options) -> list[str]:
    """Names of what :func:`reference_networks` gives."""
    has_authors = options.authors is not None and not options.is_small
    return ['authors', 'literal'] if has_authors else ['literal']


def explicit_and_hierarchical(options: Options) -> dict[str, float]:
    """Training peak of explicit and hierarchical attention, in GB.

    The explicit way is trained at the scales it is tested at, 0.5, 1 and 2,
    the hierarchical one at 0.5 and 1 (sec. 3 of the paper). Both in float32
    with cross-entropy alone, in the plain way.

    Args:
        options (Options): Of the run.

    Returns:
        dict[str, float]: ``explicit`` and ``hierarchical``.
    """
    size = SIZES[options.size]
    hierarchical = config_for(options.size)
    explicit = config_for(options.size, scales=SCALES)
    explicit.model.decode_head.type = 'AttentionToScaleHead'
    explicit.model.decode_head.num_scales = 3
    explicit.model.test_cfg.scales = SCALES
    progress('memory: explicit attention to scale')
    return {
        title: live_gb(meta_step('plain', cfg, 1, size, options))
        for title, cfg in dict(
            explicit=explicit, hierarchical=hierarchical
        ).items()
    }


def run(options: Options) -> dict[str, Any]:
    """Count.

    Args:
        options (Options): Rounds play no part.

    Returns:
        dict: What is written as JSON.
    """
    progress('memory: inference')
    return dict(
        machine=machine(),
        size=list(SIZES[options.size]),
        inference=_inference(options),
        training=_training(options),
        fusion=explicit_and_hierarchical(options),
    )


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    found = results['inference']
    first = next(iter(found))
    rows = [
        Figure(
            f'peak of 0.5/1/2 inference, {size_text(results["size"])}',
            f'{first} ({found[first]:.2f} GB)',
            found['fast, classes'],
            'GB',
            target=2.5,
            detail=f'all logits kept: {found["fast"]:.2f} GB; '
            f'plain {found["plain"]:.2f} GB',
        )
    ]
    for title, recipe in results['training'].items():
        peak = recipe['peak']
        against = f'{first} ({peak[f"{first}, half"]:.1f} GB)'
        what = f'{title} {recipe["batch_size"]} x {size_text(recipe["size"])}'
        for way, target in zip(
            ('fast', 'fast, checkpointing'), RECIPES[title][3:]
        ):
            rows.append(
                Figure(
                    f'training peak, half activations, {what}'
                    + way.removeprefix('fast'),
                    against,
                    peak[f'{way}, half'],
                    'GB',
                    target=target,
                    detail=f'float32: {peak[way]:.2f} GB',
                )
            )
    fusion = results['fusion']
    rows.append(
        Figure(
            'explicit attention to scale, training memory',
            'hierarchical',
            fusion['explicit'] / fusion['hierarchical'],
            at_least=True,
            detail=f'{fusion["explicit"]:.1f} GB and '
            f'{fusion["hierarchical"]:.1f} GB',
        )
    )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        'The most that tensors hold at once above weights and inputs, in GB '
        '(1e9 bytes), counted without values on the meta device, with tiles '
        'of the size that they have on a GPU; buffers that kernels allocate '
        'for themselves are not seen. Training: '
        'forward and backward with the losses of the recipe, gradients '
        'included. Half: weights and activations of two bytes, losses in '
        'float32.',
        '',
        f'| inference at 0.5, 1 and 2, {size_text(results["size"])} | GB |',
        '| :-- | --: |',
    ]
    for name, peak in results['inference'].items():
        lines.append(f'| {name} | {peak:.2f} |')
    for title, recipe in results['training'].items():
        lines += [
            '',
            f'| training, {title}, {recipe["batch_size"]} x '
            f'{size_text(recipe["size"])} | float32, GB | half, GB |',
            '| :-- | --: | --: |',
        ]
        for name, peak in recipe['peak'].items():
            if not name.endswith(', half'):
                half = recipe['peak'][f'{name}, half']
                lines.append(f'| {name} | {peak:.2f} | {half:.2f} |')
    lines += ['', '| fusion, training, plain way | GB |', '| :-- | --: |']
    for name, peak in results['fusion'].items():
        lines.append(f'| {name} | {peak:.2f} |')
    return '\n'.join(lines)
