"""Tables and plots of the experiment on CamVid."""

import json
from statistics import mean

from demo.methods import write_json

# What each line of the table is called: job, row, name.
LINES = (
    ('single', 'logits 1', 'single scale'),
    ('single', 'logits 0.5/1/2', 'its average 0.5/1/2, of logits'),
    ('single', 'probs 0.5/1/2', 'its average 0.5/1/2, of probabilities'),
    ('attention-single', 'blend 0.5/1', 'attention alone on it, 0.5/1'),
    ('attention-single', 'blend 0.5/1/2', 'attention alone on it, 0.5/1/2'),
    (
        *('attention-single', 'blend 0.25/0.5/1/2'),
        'attention alone on it, 0.25/0.5/1/2',
    ),
    ('finetuned', 'logits 1', 'single scale, fine-tuned'),
    ('finetuned', 'probs 1 flip', 'the same, flip'),
    ('finetuned', 'logits 0.5/1/2', 'its average, of logits'),
    ('finetuned', 'probs 0.5/1/2', 'its average, of probabilities'),
    ('finetuned', 'logits 0.5/1/2 flip', 'its average, of logits, flip'),
    ('finetuned', 'probs 0.5/1/2 flip', 'its average, of probabilities, flip'),
    ('attention', 'blend 0.5/1', 'attention alone on it, 0.5/1'),
    ('attention', 'blend 0.5/1/2', 'attention alone on it, 0.5/1/2'),
    ('attention', 'blend 0.25/0.5/1/2', 'attention alone on it, 0.25/0.5/1/2'),
    ('explicit', 'blend 0.5/1/2', 'explicit attention, 0.5/1/2'),
    ('joint', 'logits 1', 'hierarchical, from ImageNet, 1 alone'),
    ('joint', 'blend 0.5/1', 'hierarchical, from ImageNet, 0.5/1'),
    ('joint', 'blend 0.5/1/2', 'hierarchical, from ImageNet, 0.5/1/2'),
    ('joint', 'blend 0.25/0.5/1/2', 'hierarchical, from ImageNet, with 0.25'),
    ('hierarchical', 'logits 1', 'hierarchical, 1 alone'),
    ('hierarchical', 'blend 0.5/1', 'hierarchical, 0.5/1'),
    ('hierarchical', 'blend 0.5/1/2', 'hierarchical, 0.5/1/2'),
    ('hierarchical', 'blend 0.25/0.5/1/2', 'hierarchical, 0.25/0.5/1/2'),
)
# What others are compared with.
BASE = ('finetuned', 'logits 1')
# Differences in mIoU that are shown for each seed: name, job and row, and
# job and row of what it is compared with.
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
# Lines whose classes and plot are shown.
SHOWN = {
    ('single', 'logits 1'): '#000000',
    ('finetuned', 'logits 1'): '#56B4E9',
    ('finetuned', 'probs 0.5/1/2'): '#E69F00',
    ('explicit', 'blend 0.5/1/2'): '#D55E00',
    ('attention', 'blend 0.5/1/2'): '#009E73',
    ('hierarchical', 'blend 0.5/1/2'): '#0072B2',
}


def collect(root):
    """Read all that a folder of runs holds.

    Args:
        root (Path): With ``<job>-<seed>`` folders.

    Returns:
        dict: By job, then seed, the scores by split, and ``seconds``.
    """
    results = {}
    for folder in sorted(root.glob('*-[0-9]*')):
        key, seed = folder.name.rsplit('-', 1)
        run = {
            name: json.loads((folder / f'{name}.json').read_text())
            for name in ('val', 'test', 'seconds')
            if (folder / f'{name}.json').exists()
        }
        if run:
            results.setdefault(key, {})[seed] = run
    return results


def values(results, key, row, split, class_index=None):
    """Scores of a line.

    Args:
        results (dict): Of :func:`collect`.
        key (str): Of the job.
        row (str): Name of the row.
        split (str): ``val`` or ``test``.
        class_index (int, optional): Of the class whose IoU is wanted.
            Defaults to None, the mean.

    Returns:
        dict[str, float]: In percent, of each seed that has it.
    """
    found = {}
    for seed, run in results.get(key, {}).items():
        scores = run.get(split, {}).get('rows', {}).get(row)
        if scores is not None:
            iou = scores['IoU']
            found[seed] = (
                scores['mIoU'] if class_index is None else iou[class_index]
            )
    return found


def gains(results, key, row, split, against):
    """Differences to another line, of each seed that both have.

    Args:
        results (dict): Of :func:`collect`.
        key (str): Of the job.
        row (str): Name of the row.
        split (str): ``val`` or ``test``.
        against (tuple[str, str]): Job and row of the other line.

    Returns:
        dict[str, float]: In points of mIoU.
    """
    own = values(results, key, row, split)
    other = values(results, *against, split)
    return {seed: own[seed] - other[seed] for seed in own if seed in other}


def _cell(found):
    if not found:
        return '-'
    found = [*found.values()]
    text = f'{mean(found):.1f}'
    if len(found) > 1:
        text += f' ({min(found):.1f} to {max(found):.1f})'
    return text


def score_table(results):
    """Format the scores of all lines that there are.

    Args:
        results (dict): Of :func:`collect`.

    Returns:
        str: Markdown: mean and range over the seeds on each split, and the
        difference to :data:`BASE`, on the test split if it was scored.
    """
    splits = [
        split
        for split in ('val', 'test')
        if any(values(results, *line[:2], split) for line in LINES)
    ]
    last = splits[-1] if splits else 'test'
    heads = [*(f'{split} mIoU' for split in splits)]
    heads += [f'{last}, over fine-tuned', 'seeds']
    lines = [
        '| method | ' + ' | '.join(heads) + ' |',
        '| :-- |' + ' --: |' * len(heads),
    ]
    for key, row, title in LINES:
        found = [values(results, key, row, split) for split in splits]
        if any(found):
            cells = [title, *map(_cell, found)]
            cells.append(_cell(gains(results, key, row, last, BASE)))
            cells.append(str(max(map(len, found))))
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def difference_table(results, split):
    """Format :data:`DIFFERENCES` for each seed and their mean."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    lines = [
        '| difference in mIoU | '
        + ' | '.join(f'seed {seed}' for seed in seeds)
        + ' | mean |',
        '| :-- |' + ' --: |' * (len(seeds) + 1),
    ]
    for title, line, other in DIFFERENCES:
        found = gains(results, *line, split, other)
        if found:
            cells = [f'{found[s]:+.1f}' if s in found else '-' for s in seeds]
            cells.append(f'{mean(found.values()):+.1f}')
            lines.append(f'| {title} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def alone_table(results, split):
    """Format the mIoU of each scale by itself, mean over the seeds."""
    rows = [f'logits {scale}' for scale in ('0.25', '0.5', '1', '2')]
    lines = [
        '| model | 0.25 | 0.5 | 1 | 2 |',
        '| :-- | --: | --: | --: | --: |',
    ]
    for key in results:
        found = [values(results, key, row, split) for row in rows]
        if all(found):
            cells = [f'{mean(one.values()):.1f}' for one in found]
            lines.append(f'| {key} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def cost_table(results, starts):
    """Format what training took.

    Args:
        results (dict): Of :func:`collect`.
        starts (dict[str, str | None]): For each job the one whose model it
            starts from.

    Returns:
        str: Markdown: mean processor seconds of the training itself and with
        those before it, and these over those of the single scale,
        fine-tuned.
    """
    spent = {
        key: mean(run['seconds'] for run in runs.values() if 'seconds' in run)
        for key, runs in results.items()
        if any('seconds' in run for run in runs.values())
    }
    lines = [
        '| model | processor seconds | with what it starts from | of that of '
        'fine-tuned |',
        '| :-- | --: | --: | --: |',
    ]
    for key, own in spent.items():
        if key not in starts:
            continue
        chain = [key]
        while starts[chain[-1]] is not None:
            chain.append(starts[chain[-1]])
        if all(one in spent for one in (*chain, 'single', 'finetuned')):
            total = sum(spent[one] for one in chain)
            share = total / (spent['single'] + spent['finetuned'])
            lines.append(f'| {key} | {own:.0f} | {total:.0f} | {share:.2f} |')
    return '\n'.join(lines)


def class_table(results, split):
    """Format the IoU of each class, mean over the seeds, as Markdown."""
    shown = [line for line in LINES if values(results, *line[:2], split)]
    shown = [line for line in shown if line[:2] in SHOWN]
    names = _classes(results)
    lines = [
        '| class | ' + ' | '.join(title for *_, title in shown) + ' |',
        '| :-- |' + ' --: |' * len(shown),
    ]
    for i, name in enumerate(names):
        cells = [
            f'{mean(values(results, key, row, split, i).values()):.1f}'
            for key, row, _ in shown
        ]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def weight_table(results, split):
    """Format the weight of each scale by true class, in percent."""
    jobs = [
        key
        for key in ('attention', 'hierarchical')
        if _weights(results, key, split)
    ]
    lines = [
        '| class | '
        + ' | '.join(f'{key}: {s}' for key in jobs for s in ('0.5', '1', '2'))
        + ' |',
        '| :-- |' + ' --: |' * 3 * len(jobs),
    ]
    for i, name in enumerate(_classes(results)):
        cells = [
            f'{100 * mean(weights[s][i] for weights in found):.0f}'
            for key in jobs
            for found in [_weights(results, key, split)]
            for s in range(3)
        ]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _weights(results, key, split):
    return [
        run[split]['weights']['blend 0.5/1/2']
        for run in results.get(key, {}).values()
        if split in run
    ]


def _classes(results):
    for runs in results.values():
        for run in runs.values():
            for split in ('val', 'test'):
                if split in run:
                    return run[split]['classes']
    return []


def draw(results, split, path):
    """Plot the mIoU of each method, a mark for each seed.

    Args:
        results (dict): Of :func:`collect`.
        split (str): ``val`` or ``test``.
        path (Path): PNG to write.
    """
    from matplotlib.figure import Figure

    shown = [
        (key, row, title)
        for key, row, title in LINES
        if values(results, key, row, split)
    ]
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


def write_report(root, out, starts):
    """Write ``results.json``, ``results.md`` and a plot for each split.

    Args:
        root (Path): Folder of the runs.
        out (Path): Folder of the report.
        starts (dict[str, str | None]): For each job the one whose model it
            starts from.

    Returns:
        list[Path]: The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = collect(root)
    files = [out / 'results.md', out / 'results.json']
    parts = ['# CamVid: results', score_table(results)]
    parts += ['## Training', cost_table(results, starts)]
    for split in ('val', 'test'):
        if any(
            split in run for one in results.values() for run in one.values()
        ):
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
    return files
