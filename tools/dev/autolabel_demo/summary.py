"""Means, spreads and tables of a finished demo."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from demo.methods import mean_rows, write_json

from .label_quality import THRESHOLDS
from .recipes import FINE_ONLY, RECIPES, SECOND, START
from .seed_run import SeedRun

#: Of labels, on the page and in the table.
SHOWN_THRESHOLDS = THRESHOLDS[1:]


def summarize(args: Namespace, runs: dict[int, SeedRun]) -> dict:
    """Collect all results, and write them as ``results.json``.

    Args:
        args (Namespace): From the command line.
        runs (dict[int, SeedRun]): By seed, with all jobs done.

    Returns:
        dict: What was written.
    """
    states = {seed: run.state for seed, run in runs.items()}
    rows = [_row(recipe, states) for recipe in RECIPES]
    results = dict(
        iters=list(args.iters),
        images=dict(zip(('fine', 'val', 'test', 'unlabelled'), args.images)),
        jobs=args.jobs,
        threads=args.threads,
        rows=rows,
        mean=mean_rows([state['test'] for state in states.values()]),
        labels={number: _labels(number, states) for number in ('1', '2')},
        second={seed: run.labeller(2).key for seed, run in runs.items()},
        core_minutes=round(
            sum(sum(s['cpu_seconds'].values()) for s in states.values()) / 60,
            1,
        ),
        job_minutes=round(
            sum(sum(s['seconds'].values()) for s in states.values()) / 60, 1
        ),
        seeds={
            seed: {
                key: state[key]
                for key in ('val', 'test', 'labels', 'seconds', 'cpu_seconds')
            }
            for seed, state in states.items()
        },
    )
    write_json(args.out / 'results.json', results)
    return results


def _row(recipe, states) -> dict:
    def of(split, key):
        values = (state[split][key] for state in states.values())
        return [v['mIoU'] if split == 'test' else v for v in values]

    test, fine = of('test', recipe.key), of('test', FINE_ONLY.key)
    return dict(
        key=recipe.key,
        title=recipe.title,
        labels=recipe.labels,
        val=spread(of('val', recipe.key)),
        test=spread(test),
        # Seed by seed: what is hard in one seed is so for both.
        above_fine=spread([a - b for a, b in zip(test, fine)]),
    )


def _labels(number, states) -> dict:
    found = [state['labels'][number] for state in states.values()]

    def mean(get):
        return sum(map(get, found)) / len(found)

    return dict(
        mIoU=mean(lambda each: each['mIoU']),
        coverage={
            str(t): mean(lambda each, t=t: each['coverage'][str(t)])
            for t in THRESHOLDS
        },
        precision={
            str(t): mean(lambda each, t=t: each['precision'][str(t)])
            for t in THRESHOLDS
        },
    )


def spread(values: Sequence[float]) -> dict:
    """Mean, least and largest of the seeds' values, and all of them."""
    values = [round(float(value), 2) for value in values]
    return dict(
        mean=round(sum(values) / len(values), 2),
        least=min(values),
        most=max(values),
        values=values,
    )


def range_text(value: dict, pattern: str = '{:.1f}') -> str:
    """Write a mean with the range of the seeds, such as ``61.3 (60-62)``."""
    mean, least, most = (
        pattern.format(value[key]) for key in ('mean', 'least', 'most')
    )
    return mean if len(value['values']) < 2 else f'{mean} ({least} to {most})'


def table_rows(results: dict) -> list[list[str]]:
    """Cells of the table of results; the first row is the header."""
    split = f'test mIoU of {results["images"]["test"]} images'
    cells = [
        ['', 'labels', 'iterations', 'val mIoU', split, 'above fine only']
    ]
    for row in results['rows']:
        above = range_text(row['above_fine'], '{:+.1f}')
        cells.append(
            [
                row['title'],
                row['labels'],
                _iterations(row['key'], results['iters']),
                range_text(row['val']),
                range_text(row['test']),
                '' if row['key'] == FINE_ONLY.key else above,
            ]
        )
    return cells


def _iterations(key: str, iters: Sequence[int]) -> str:
    return str(iters[0]) if key == START.key else '{} + {}'.format(*iters)


def label_rows(results: dict) -> list[list[str]]:
    """Cells of the table of labels, likewise; shares in percent."""
    head = ['labels of', 'mIoU']
    for threshold in SHOWN_THRESHOLDS:
        head += [f'kept at {threshold}', 'of these right']
    cells = [head]
    for number, title in (('1', 'round 1'), ('2', 'round 2')):
        found = results['labels'][number]
        row = [title, f'{found["mIoU"]:.1f}']
        for threshold in map(str, SHOWN_THRESHOLDS):
            for key in ('coverage', 'precision'):
                row.append(f'{100 * found[key][threshold]:.1f} %')
        cells.append(row)
    return cells


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Write a table, aligned, as Markdown."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        '| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths)) + ' |'
        for row in cells
    ]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join(lines)


def findings(results: dict) -> list[str]:
    """Say in words what the table shows, whatever it shows."""
    rows = {row['key']: row for row in results['rows']}
    count = len(rows[FINE_ONLY.key]['test']['values'])
    texts = []
    for key, row in rows.items():
        if key in (START.key, FINE_ONLY.key):
            continue
        above = row['above_fine']
        wins = sum(value > 0 for value in above['values'])
        texts.append(
            f'{row["title"]}: {range_text(above, "{:+.1f}")} against fine '
            f'labels only; better in {wins} of {count} '
            f'seed{"s" if count > 1 else ""}.'
        )
    second, chosen = rows[SECOND.key]['test'], results['second']
    gains = [
        after - rows[key]['test']['values'][number]
        for number, (after, key) in enumerate(
            zip(second['values'], chosen.values())
        )
    ]
    texts.append(
        'Second round against the student that labelled for it: '
        f'{range_text(spread(gains), "{:+.1f}")}.'
    )
    return texts


def terminal_table(results: dict) -> str:
    """Write everything that the terminal shows in the end."""
    parts = [
        markdown(table_rows(results)),
        'Mean, and range of the seeds. Auto-labels against the truth:',
        markdown(label_rows(results)),
        '\n'.join(findings(results)),
        f'{results["core_minutes"]} core-minutes.',
    ]
    return '\n\n'.join(parts) + '\n'
