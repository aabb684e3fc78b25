"""Table, numbers and plot of a comparison."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from driver.jobs import Run
from matplotlib.figure import Figure

from hmsa_mmseg.utils import markdown_table, write_json

from .experiment import METHODS, PRESETS, TRAINED

# Okabe and Ito's colours; the markers tell the methods apart without them.
STYLES = {
    'single': ('#000000', 'o'),
    'average': ('#E69F00', 's'),
    'explicit': ('#D55E00', '^'),
    'hier-2': ('#56B4E9', 'v'),
    'hier-3': ('#0072B2', 'D'),
    'hier-4': ('#009E73', 'P'),
}
HEADER = ['method', 'trained at', 'tested at', 'mIoU', 'FLOPs', 'step time']
HEADER += ['memory', 'paper: mIoU', 'FLOPs', 'step time']


def report(args: Namespace, runs: list[Run]) -> tuple[str, list[Path]]:
    """Write ``<preset>.json``, ``<preset>.md`` and, with scores, a plot."""
    (run,) = runs
    *tests, measured = run.jobs
    results = dict(
        preset=args.preset,
        title=PRESETS[args.preset].title,
        seed=args.seeds[0],
        iters=run.state['settings']['iters'],
        miou={
            name.split(' ', 1)[1]: run.result(name)['mIoU']
            for name in tests
            if name.startswith('test ')
        },
        costs=run.result(measured),
        seconds={k: v['seconds'] for k, v in run.state['jobs'].items()},
    )
    return table(results), write_report(args.out, results)


def _scales(scales) -> str:
    return '/'.join(f'{scale:g}' for scale in scales)


def table(results: dict) -> str:
    """Format results as a Markdown table."""
    rows = []
    for method in METHODS:
        cost = results['costs']['models'][method.trained]['relative']
        miou = results['miou'].get(method.key)
        memory = cost['cuda_memory'] or cost['memory']
        time, low, high = (cost[f'time{end}'] for end in ('', '_low', '_high'))
        spread = f' ({low:.2f} to {high:.2f})' if low != high else ''
        paper = method.paper
        rows.append(
            [
                method.title,
                _scales(TRAINED[method.trained]),
                _scales(method.test_scales),
                '-' if miou is None else f'{miou:.2f}',
                f'{cost["flops"]:.2f}x',
                f'{time:.2f}x{spread}',
                f'{memory:.2f}x',
                f'{paper.miou}' if paper else '-',
                f'{paper.flops:.2f}x' if paper else '-',
                f'{paper.time:.2f}x' if paper else '-',
            ]
        )
    return markdown_table(HEADER, rows, left=3)


def _notes(results: dict) -> str:
    """Say what the columns are and what they were measured on."""
    costs = results['costs']
    machine, single = costs['machine'], costs['models']['single']
    crop, size = ('x'.join(map(str, costs[k])) for k in ('crop_size', 'size'))
    place = machine['gpu'] or f'{machine["threads"]} threads, {machine["cpu"]}'
    if single['cuda_mb']:
        memory = (
            'what CUDA had allocated at most in such a step, without weights '
            f'and optimizer state; single scale {single["cuda_mb"]:.0f} MB.'
        )
    else:
        memory = (
            'what tensors hold at most in forward and backward of the same '
            'batch and crop, without the weights, by their shapes; single '
            f'scale {single["live_mb"]:.0f} MB.'
        )
    lines = [
        f'{results["title"]}. Costs are of one training step, relative to '
        'the single scale; average pooling has no training of its own.',
        '',
        f'- FLOPs: forward and backward of a batch of {costs["batch_size"]} '
        f'at {crop}, convolutions and matrix products, counted without '
        f'running them; single scale {single["gflops"]:.1f} GFLOP.',
        '- Step time: forward, backward and optimizer '
        f'in float32 at {size}; the methods in turns, median and range of '
        f'the ratios of {costs["rounds"]} rounds; single scale '
        f'{single["ms"]:.0f} ms. {place}, torch {machine["torch"]}.',
        f'- Memory: {memory}',
        '- Paper: Table 1 of https://arxiv.org/abs/2005.10821, as cited '
        'elsewhere: DeepLabV3+ with ResNet-50 on Mapillary Vistas.',
    ]
    if results['miou']:
        lines.append(
            f'- mIoU: in percent, {results["iters"]} iterations, seed '
            f"{results['seed']}, by mmseg's train.py and test.py."
        )
    return '\n'.join(lines)


def write_report(out: Path, results: dict) -> list[Path]:
    """Write the files of a report into a folder that is there."""
    files = [out / f'{results["preset"]}.{end}' for end in ('md', 'json')]
    text = (
        f'# Ways to fuse scales: {results["title"]}\n\n'
        f'{table(results)}\n\n{_notes(results)}\n'
    )
    if results['miou']:
        files.append(out / f'{results["preset"]}.png')
        draw(files[-1], results)
        text += f'\n![mIoU against the cost of training]({files[-1].name})\n'
    files[0].write_text(text)
    write_json(files[1], results)
    return files


def draw(path: Path, results: dict) -> None:
    """Plot mIoU against training FLOPs: these results, and the paper's."""
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    panels = figure.subplots(1, 2)
    models = results['costs']['models']
    ours = {
        method: (models[method.trained]['relative']['flops'], score)
        for method in METHODS
        if (score := results['miou'].get(method.key)) is not None
    }
    paper = {
        method: (method.paper.flops, method.paper.miou)
        for method in METHODS
        if method.paper
    }
    titles = (
        results['title'],
        'Paper, Table 1: DeepLabV3+ R50, Mapillary',
    )
    for panel, points, title in zip(panels, (ours, paper), titles):
        for method, (flops, score) in points.items():
            colour, marker = STYLES[method.key]
            label = f'{method.title} {_scales(method.test_scales)}'
            panel.plot(
                *(flops, score, marker),
                color=colour,
                markersize=8,
                label=label,
            )
        panel.set_title(title, fontsize=9)
        panel.set_xlabel('training FLOPs, relative to the single scale')
        panel.set_xlim(0.5, 6.5)
        panel.margins(y=0.15)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel('mIoU in percent')
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=3,
        fontsize=8,
        title='method, scales in the test',
        title_fontsize=8,
    )
    figure.savefig(path, dpi=120)
