"""Suite `flops`: operations of inference and training, counted on `meta`.

Nothing is computed: the figures are of the true size on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .measure import count_flops, machine
from .networks import build, build_stock, config_for, images, set_fast
from .options import Options, progress
from .recipe_steps import meta_step
from .reference import reference_networks
from .report import Figure, size_text

TITLE = 'Operations'
SIZES = dict(small=(64, 128), full=(1024, 2048))
SCALES = (0.5, 1.0, 2.0)


def _inference(options: Options) -> dict[str, float]:
    """GFLOP of one image at scales 0.5, 1 and 2, by network."""
    size = SIZES[options.size]
    cfg = config_for(options.size)
    model = build(cfg, 'meta')
    stock = build_stock(cfg, 'meta')
    metas = [dict(img_shape=size)]
    x = images(1, size, 'meta')

    def run(fast: bool) -> None:
        set_fast(model, fast)
        model.encode_decode(x)

    def run_stock_views() -> None:
        # mmseg's multi-scale and flip testing: as many views, one by one.
        for scale in SCALES:
            view = [int(side * scale) for side in size]
            for _ in range(2):
                stock.encode_decode(images(1, view, 'meta'), metas)

    functions: dict[str, Callable[[], Any]] = {
        name: lambda network=network: network(x)
        for name, network in reference_networks(options, model).items()
    }
    functions.update(
        {
            'plain': lambda: run(False),
            'fast': lambda: run(True),
            'mmseg OCRNet, scale 1': lambda: stock.encode_decode(x, metas),
            'mmseg OCRNet, 3 scales x flip': run_stock_views,
        }
    )
    with torch.no_grad():
        return {
            name: count_flops(function) / 1e9
            for name, function in functions.items()
        }


def _training(options: Options) -> dict[str, float]:
    """GFLOP of forward and backward of one image, by network."""
    size = SIZES[options.size]
    cfg = config_for(options.size)
    return {
        name: count_flops(meta_step(name, cfg, 1, size, options)) / 1e9
        for name in ('literal', 'fast', 'mmseg OCRNet, scale 1')
    }


def run(options: Options) -> dict[str, Any]:
    """Count.

    Args:
        options (Options): Rounds play no part.

    Returns:
        dict: What is written as JSON.
    """
    progress('counting operations')
    return dict(
        machine=machine(),
        size=list(SIZES[options.size]),
        inference=_inference(options),
        training=_training(options),
    )


def _against(results: dict[str, Any]) -> str:
    return next(iter(results['inference']))


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    found, training = results['inference'], results['training']
    first = _against(results)
    stock = 'mmseg OCRNet, scale 1'
    return [
        Figure(
            f'FLOPs of 0.5/1/2 inference, {size_text(results["size"])}',
            f'{first} ({found[first]:.0f} G)',
            found['fast'] / found[first],
            target=0.62,
            detail=f'{found["fast"]:.0f} G; plain {found["plain"]:.0f} G',
        ),
        Figure(
            'FLOPs of a training step, scales 0.5 + 1.0',
            f'{stock} ({training[stock]:.0f} G)',
            training['fast'] / training[stock],
            detail=f'{training["fast"]:.0f} G',
        ),
    ]


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        'Matrix products and convolutions, two operations for each '
        'multiplication with its addition, of one image of '
        f'{size_text(results["size"])}, counted without values on the meta '
        'device. Inference is at scales 0.5, 1 and 2, training (forward and '
        'backward) at 0.5 and 1, if nothing else is said.',
        '',
    ]
    for what in ('inference', 'training'):
        first = next(iter(results[what]))
        lines += [
            f'| {what} | GFLOP | over {first} |',
            '| :-- | --: | --: |',
        ]
        for name, gflops in results[what].items():
            ratio = gflops / results[what][first]
            lines.append(f'| {name} | {gflops:.0f} | {ratio:.3f} |')
        lines.append('')
    return '\n'.join(lines)
