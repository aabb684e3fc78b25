"""Suite `inference`: an image at scales 0.5, 1 and 2, to classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .inference_networks import Networks
from .measure import machine
from .networks import images
from .options import Options, progress
from .parts import OUTSIDE, inference_parts
from .reference import (
    logits_difference,
    must_be_equal,
    without_tf32,
    wrong_classes,
)
from .report import Figure, ratio_text, shares_table, size_text
from .stopwatch import operator_shares, profile
from .timing import peak_cuda_bytes, ratio_between, time_variants

TITLE = 'Inference'
SCALES = (0.5, 1.0, 2.0)
# Of the largest logit; float32 rounds in another order, and BN folded into
# weights rounds those. In half precision nothing is equal to float32.
TOLERANCE = {'float32': 1e-4, 'bfloat16': 0.2, 'float16': 0.05}
STOCK = 'mmseg OCRNet, scale 1'
FASTEST = 'fast, classes, prepared'
NOT_HEADS = 'everything outside backbone and heads'


class Case(NamedTuple):
    """A workload: one image; of the larger one the main variants alone."""

    size: tuple[int, int]
    all_variants: bool = True


# A pass of the reference at 1024x2048 takes minutes on two cores.
CASES = {
    ('full', 'cpu'): [Case((256, 512)), Case((512, 1024), False)],
    ('full', 'cuda'): [Case((1024, 2048))],
    ('small', 'cpu'): [Case((64, 128))],
    ('small', 'cuda'): [Case((64, 128))],
}


def variants(
    networks: Networks, x: Tensor, all_variants: bool = True
) -> dict[str, Callable[[], Any]]:
    """The ways that are compared; the first is what all else is over."""
    functions: dict[str, Callable[[], Any]] = {
        name: lambda name=name: networks.reference(name, x).argmax(dim=1)
        for name in networks.references
    }
    ours: dict[str, Callable[[], Any]] = {
        'plain': lambda: networks.predict(x, fast=False),
        'fast': lambda: networks.predict(x, fast=True),
        'fast, classes': lambda: networks.classes(x, networks.model),
        FASTEST: lambda: networks.classes(x, networks.prepared),
        STOCK: lambda: networks.stock_predict(x),
    }
    if not all_variants:
        first = next(iter(functions))
        functions = {first: functions[first]}
        ours = {FASTEST: ours[FASTEST]}
    return {**functions, **ours}


def check(networks: Networks, x: Tensor, dtype: str) -> dict[str, float]:
    """Compare logits and classes with the reference's; stops if they differ.

    mmseg's model is compared at the one scale that it has.
    """
    tolerance = TOLERANCE[dtype]
    first, *others = networks.references
    expected = networks.reference(first, x)
    found = {
        name: logits_difference(networks.reference(name, x), expected)
        for name in others
    }
    for name, fast in dict(plain=False, fast=True).items():
        found[name] = logits_difference(networks.logits(x, fast), expected)
    for name, model in {
        'wrong classes': networks.model,
        'wrong classes, prepared': networks.prepared,
    }.items():
        classes = networks.classes(x, model)
        found[name] = wrong_classes(classes, expected, tolerance)
    scales = networks.model.test_cfg.scales
    networks.model.test_cfg.scales = (1.0,)
    (stock,) = networks.stock_predict(x)
    found[STOCK] = logits_difference(
        stock.seg_logits.data[None], networks.logits(x, fast=False)
    )
    networks.model.test_cfg.scales = scales
    must_be_equal(f'inference, {dtype}', found, tolerance)
    return found


@torch.no_grad()
def measure(case: Case, dtype: str, options: Options) -> dict[str, Any]:
    """Check one workload, then measure it."""
    progress(f'inference: {size_text(case.size)}, {dtype}')
    networks = Networks(options, dtype)
    x = images(1, case.size, options.device)
    result: dict[str, Any] = dict(
        size=list(case.size), device=options.device, dtype=dtype
    )
    if case.all_variants:
        with without_tf32():
            result['difference'] = check(networks, x, dtype)
    functions = variants(networks, x, case.all_variants)
    on_gpu = options.device == 'cuda'
    rounds, warmup = options.rounds, 5 if on_gpu else 1
    if not case.all_variants:
        # A round takes more than a minute on two cores.
        rounds, warmup = min(rounds, 2), 0
    result['rounds'] = rounds
    result['times'] = time_variants(functions, rounds, warmup)
    if on_gpu:
        result['cuda_gb'] = {
            name: peak_cuda_bytes(function) / 1e9
            for name, function in functions.items()
        }
    if case.all_variants:
        result['shares'] = {
            'plain': profile(
                functions['plain'], inference_parts(networks.model), 1
            ),
            FASTEST: profile(
                functions[FASTEST], inference_parts(networks.prepared), 1
            ),
        }
        result['operators'] = {FASTEST: operator_shares(functions[FASTEST])}
    return result


def run(options: Options) -> dict[str, Any]:
    """Check, then measure.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    results = [
        measure(case, dtype, options)
        for dtype in options.dtypes
        for case in CASES[options.size, options.device]
    ]
    return dict(machine=machine(), results=results)


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    rows = []
    for row in results['results']:
        first = next(iter(row['times']))
        time = row['times'][FASTEST]
        on = '' if row['device'] == 'cpu' else f' on the GPU, {row["dtype"]}'
        what = f'{size_text(row["size"])}{on}'
        rows.append(
            Figure(
                f'time of 0.5/1/2 inference, {what}',
                first,
                time['wall_ratio']['median'],
                target=0.70,
                detail=f'{ratio_text(time["wall_ratio"])}; CPU time '
                f'{ratio_text(time["cpu_ratio"])}',
            )
        )
        if 'shares' in row:
            shares = row['shares'][FASTEST]
            rows.append(
                Figure(
                    f'{NOT_HEADS}, {what}',
                    'the whole of 0.5/1/2 inference',
                    100 * sum(shares.get(part, 0) for part in OUTSIDE),
                    '%',
                    target=5,
                )
            )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        'One image at scales 0.5, 1 and 2, from the normalised image to the '
        'class of every pixel. Literal: the same weights in the '
        "authors' order of operations "
        '([literal_network.py](../../tests/oracles/literal_network.py)).'
        ' Plain and fast are `fast=False` and `fast=True` of the decode '
        'head, with full logits as well, as mmseg keeps them; classes: '
        '`test_cfg.classes_only`; prepared: `prepare_for_inference`, which '
        'folds BN and takes channels_last. Before that, logits and classes '
        'were checked to be equal (differences in the JSON file). Times: '
        'median of interleaved rounds, ratios with range.',
    ]
    for row in results['results']:
        on_gpu = row['device'] == 'cuda'
        lines += [
            '',
            f'## {size_text(row["size"])}, {row["dtype"]}, '
            f'{"GPU" if on_gpu else "CPU"}, '
            f'{row["rounds"]} rounds',
            '',
            f'| | ms | over {next(iter(row["times"]))} | CPU time |'
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
        if 'shares' in row:
            times = row['times']
            over = ratio_between(times, FASTEST, STOCK)
            lines += [
                '',
                f'Three scales take {over:.2f} times as long as mmseg takes '
                'for one.',
                '',
                'Where the time goes:',
                '',
                shares_table(row['shares']),
                '',
                shares_table(row['operators']),
            ]
    return '\n'.join(lines)
