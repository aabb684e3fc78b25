"""Tables and plots of the experiment on CamVid."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

from driver.jobs import Run
from driver.pages import range_text
from matplotlib.figure import Figure

from hmsa_mmseg.utils import markdown_table, write_json

from .experiment import MODELS, SPLITS

BLENDS = ('0.5/1', '0.5/1/2', '0.25/0.5/1/2')
# What each line of the table is called: model, row, name.
LINES = (
    ('single', 'logits 1', 'single scale'),
    ('single', 'logits 0.5/1/2', 'its average 0.5/1/2, of logits'),
    ('single', 'probs 0.5/1/2', 'its average 0.5/1/2, of probabilities'),
    *(
        ('attention-single', f'blend {s}', f'attention alone on it, {s}')
        for s in BLENDS
    ),
    ('finetuned', 'logits 1', 'single scale, fine-tuned'),
    ('finetuned', 'probs 1 flip', 'the same, flip'),
    ('finetuned', 'logits 0.5/1/2', 'its average, of logits'),
    ('finetuned', 'probs 0.5/1/2', 'its average, of probabilities'),
    ('finetuned', 'logits 0.5/1/2 flip', 'its average, of logits, flip'),
    ('finetuned', 'probs 0.5/1/2 flip', 'its average, of probabilities, flip'),
    *(
        ('attention', f'blend {s}', f'attention alone on it, {s}')
        for s in BLENDS
    ),
    ('explicit', 'blend 0.5/1/2', 'explicit attention, 0.5/1/2'),
    ('joint', 'logits 1', 'hierarchical, from ImageNet, 1 alone'),
    ('joint', 'blend 0.5/1', 'hierarchical, from ImageNet, 0.5/1'),
    ('joint', 'blend 0.5/1/2', 'hierarchical, from ImageNet, 0.5/1/2'),
    ('joint', 'blend 0.25/0.5/1/2', 'hierarchical, from ImageNet, with 0.25'),
    ('hierarchical', 'logits 1', 'hierarchical, 1 alone'),
    *(('hierarchical', f'blend {s}', f'hierarchical, {s}') for s in BLENDS),
)
# What others are compared with.
BASE = ('finetuned', 'logits 1')
# Differences in mIoU that are shown for each seed: name, model and row, and
# model and row of what it is compared with.
DIFFERENCES = tuple(
    (f'{title}: {what}', (key, f'blend {scales}'), other)
    for key, title, base in (
        ('hierarchical', 'hierarchical', 'finetuned'),
        ('attention', 'attention alone on fine-tuned', 'finetuned'),
        ('attention-single', 'attention alone on single', 'single'),
    )
    for what, scales, other in (
        ('0.5/1/2 - single', '0.5/1/2', ('single', 'logits 1')),
        ('0.5/1/2 - fine-tuned', '0.5/1/2', BASE),
        ('0.5/1/2 - average', '0.5/1/2', (base, 'probs 0.5/1/2')),
        ('0.25 added', '0.25/0.5/1/2', (key, 'blend 0.5/1/2')),
    )
)
# Lines whose classes are shown, and their colours in the plot.
SHOWN = {
    ('single', 'logits 1'): '#000000',
    ('finetuned', 'logits 1'): '#56B4E9',
    ('finetuned', 'probs 0.5/1/2'): '#E69F00',
    ('explicit', 'blend 0.5/1/2'): '#D55E00',
    ('attention', 'blend 0.5/1/2'): '#009E73',
    ('hierarchical', 'blend 0.5/1/2'): '#0072B2',
}


def report(args: Namespace, runs: list[Run]) -> tuple[str, list[Path]]:
    """Write the report on all that the runs hold."""
    results = {key: {} for key in sorted(MODELS)}
    for seed, run in zip(args.seeds, runs):
        for key, found in results.items():
            one = {
                split: scores
                for split in SPLITS
                if (scores := run.result(f'score {key} on {split}'))
            }
            name = f'train {key}'
            if run.state['jobs'].get(name, {}).get('done'):
                one['seconds'] = run.state['jobs'][name]['cpu_seconds']
            if one:
                found[str(seed)] = one
    results = {key: found for key, found in results.items() if found}
    return write_report(args.out, results)


def write_report(out: Path, results: dict) -> tuple[str, list[Path]]:
    """Write ``results.json``, ``results.md`` and a plot for each split."""
    files = [out / 'results.md', out / 'results.json']
    splits = [s for s in SPLITS if any(s in run for run in _runs(results))]
    scored = score_table(results, splits)
    parts = ['# CamVid: results', scored, '## Training', cost_table(results)]
    for split in splits:
        parts += [
            f'## Differences, {split}',
            difference_table(results, split),
            f'## Each scale by itself, {split}',
            alone_table(results, split),
            f'## IoU of each class, {split}',
            class_table(results, split),
            f'## Weight of each scale at 0.5/1/2, percent, {split}',
            weight_table(results, split),
        ]
        files.append(out / f'{split}.png')
        draw(results, split, files[-1])
    files[0].write_text('\n\n'.join(parts) + '\n')
    write_json(files[1], results)
    return scored, files


def values(results, key, row, split, index=None) -> dict[str, float]:
    """Return mIoU of a line, or IoU of a class, by the seeds that have it."""
    found = {}
    for seed, run in results.get(key, {}).items():
        scores = run.get(split, {}).get('rows', {}).get(row)
        if scores is not None:
            iou = scores['mIoU'] if index is None else scores['IoU'][index]
            if iou is not None:
                found[seed] = iou
    return found


def gains(results, key, row, split, against) -> dict[str, float]:
    """Return differences to another line, by the seeds that both have."""
    own = values(results, key, row, split)
    other = values(results, *against, split)
    return {seed: own[seed] - other[seed] for seed in own if seed in other}


def _runs(results: dict) -> list[dict]:
    return [run for seeds in results.values() for run in seeds.values()]


def _mean(found: Iterable[float], pattern: str = '{:.1f}') -> str:
    found = [one for one in found if one is not None]
    return pattern.format(mean(found)) if found else '-'


def score_table(results: dict, splits: Sequence[str]) -> str:
    """Format all lines: mean and range, and the difference to `BASE`."""
    last = splits[-1] if splits else 'test'
    rows = []
    for key, row, title in LINES:
        found = [values(results, key, row, split) for split in splits]
        if any(found):
            found.append(gains(results, key, row, last, BASE))
            cells = [range_text([*one.values()]) for one in found]
            rows.append([title, *cells, max(map(len, found))])
    heads = [f'{split} mIoU' for split in splits]
    header = ['method', *heads, f'{last}, over fine-tuned', 'seeds']
    return markdown_table(header, rows)


def difference_table(results: dict, split: str) -> str:
    """Format :data:`DIFFERENCES` for each seed and their mean."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    rows = []
    for title, line, other in DIFFERENCES:
        found = gains(results, *line, split, other)
        if found:
            cells = [f'{found[s]:+.1f}' if s in found else '-' for s in seeds]
            rows.append([title, *cells, _mean(found.values(), '{:+.1f}')])
    header = [*(f'seed {seed}' for seed in seeds), 'mean']
    return markdown_table(['difference in mIoU', *header], rows)


def alone_table(results: dict, split: str) -> str:
    """Format the mIoU of each scale by itself, mean over the seeds."""
    scales = ('0.25', '0.5', '1', '2')
    rows = []
    for key in results:
        found = [values(results, key, f'logits {s}', split) for s in scales]
        if all(found):
            rows.append([key, *(_mean(one.values()) for one in found)])
    return markdown_table(['model', *scales], rows)


def cost_table(results: dict) -> str:
    """Format processor seconds of the trainings, mean over the seeds.

    Of the training itself, with those that it starts from, and these over
    those of the single scale, fine-tuned.
    """
    spent = {
        key: mean(seconds)
        for key, runs in results.items()
        if (seconds := [r['seconds'] for r in runs.values() if 'seconds' in r])
    }
    rows = []
    for key, own in spent.items():
        chain = [key]
        while MODELS[chain[-1]].start is not None:
            chain.append(MODELS[chain[-1]].start)
        if {*chain, 'single', 'finetuned'} <= {*spent}:
            total = sum(spent[one] for one in chain)
            share = total / (spent['single'] + spent['finetuned'])
            rows.append([key, f'{own:.0f}', f'{total:.0f}', f'{share:.2f}'])
    header = ['processor seconds', 'with what it starts from']
    return markdown_table(['model', *header, 'of that of fine-tuned'], rows)


def _by_class(results: dict, split: str, columns: dict, pattern: str) -> str:
    """Format a table: a row for each class, the mean over the seeds.

    Each column gives the values of a class, by its number.
    """
    names = next(r[split]['classes'] for r in _runs(results) if split in r)
    rows = [
        [name, *(_mean(column(i), pattern) for column in columns.values())]
        for i, name in enumerate(names)
    ]
    return markdown_table(['class', *columns], rows)


def class_table(results: dict, split: str) -> str:
    """Format the IoU of each class."""
    columns = {
        title: lambda i, line=(key, row, split): values(
            results, *line, i
        ).values()
        for key, row, title in LINES
        if (key, row) in SHOWN and values(results, key, row, split)
    }
    return _by_class(results, split, columns, '{:.1f}')


def weight_table(results: dict, split: str) -> str:
    """Format the weight of each scale by true class, in percent."""
    columns = {}
    for key in ('attention', 'hierarchical'):
        runs = [run for run in results.get(key, {}).values() if split in run]
        weights = [run[split]['weights']['blend 0.5/1/2'] for run in runs]
        for s, scale in enumerate(('0.5', '1', '2')):
            if weights:
                columns[f'{key}: {scale}'] = lambda i, s=s, of=weights: [
                    one[s][i] and 100 * one[s][i] for one in of
                ]
    return _by_class(results, split, columns, '{:.0f}')


def draw(results: dict, split: str, path: Path) -> None:
    """Plot the mIoU of each method, a mark for each seed."""
    shown = [line for line in LINES if values(results, *line[:2], split)]
    figure = Figure(figsize=(7, 0.32 * len(shown) + 1), layout='constrained')
    axes = figure.subplots()
    for y, (key, row, _) in enumerate(shown):
        found = [*values(results, key, row, split).values()]
        color = SHOWN.get((key, row), '#999999')
        axes.plot(found, [y] * len(found), 'o', color=color, alpha=0.6)
        axes.plot([mean(found)], [y], '|', color=color, ms=18, mew=2)
    axes.set_yticks(range(len(shown)), [title for *_, title in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f'mIoU, {split} split; bar: mean of the seeds')
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=120)
