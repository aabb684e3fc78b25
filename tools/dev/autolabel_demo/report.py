"""Tables, pictures and page of the loop of auto-labelling."""

from __future__ import annotations

import os
from argparse import Namespace
from itertools import islice
from pathlib import Path
from statistics import fmean

import jinja2
import numpy as np
from driver.jobs import Run
from driver.labels import dataset, mean_rows
from driver.pages import heat, palette_of, range_text, write_sheet
from PIL import Image

from hmsa_mmseg.datasets.confidence import LEVELS, is_kept
from hmsa_mmseg.reports.pages import data_uri
from hmsa_mmseg.utils import markdown_table, write_json

from .experiment import (
    FINE_ONLY,
    RECIPES,
    SECOND,
    START,
    TEACHER,
    THRESHOLDS,
    AutoLabel,
    better_student,
    labels_of,
    read_autolabels,
)

NUM_SHOWN = 4  # the first of the unlabelled images, not chosen ones
#: Of labels, on the page and in the table.
SHOWN_THRESHOLDS = THRESHOLDS[1:]


def report(args: Namespace, runs: list[Run]) -> tuple[str, list[Path]]:
    """Write results, tables, pictures and the page."""
    results = summarize(args, runs)
    write_json(args.out / 'results.json', results)
    tables = [table(results), label_table(results)]
    texts = [markdown_table(*tables[0], left=2), markdown_table(*tables[1])]
    (args.out / 'table.md').write_text('\n\n'.join(texts) + '\n')
    coarse = dataset(TEACHER.path, 'coarse_dataloader', runs[0].root)
    samples = _draw(runs[0], coarse)
    kept = [f'round {n}, from {SHOWN_THRESHOLDS[0]} on' for n in (1, 2)]
    titles = ['image', 'coarse polygons', *kept, 'truth, not used']
    flat = [{**a, **b, **c} for a, b, c in samples[:2]]
    write_sheet(args.out / 'pictures.png', flat, titles)
    places = {}
    for seed, run in zip(args.seeds, runs):
        for number in (1, 2):
            page = labels_of(run, number) / 'report.html'
            place = os.path.relpath(page, args.out)
            places[f'seed {seed}, round {number}'] = place
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    environment.filters['data_uri'] = lambda pixels: data_uri(
        Image.fromarray(pixels), optimize=True
    )
    page = environment.get_template('page.html.j2').render(
        results=results,
        recipes=RECIPES,
        tables=tables,
        findings=findings(results),
        reports=places,
        samples=samples,
        metainfo=coarse.metainfo,
    )
    (args.out / 'index.html').write_text(page)
    minutes = f'{results["core_minutes"]} core-minutes.'
    names = ('table.md', 'results.json', 'index.html')
    text = '\n\n'.join([*texts, '\n'.join(findings(results)), minutes])
    return text, [args.out / name for name in names]


def summarize(args: Namespace, runs: list[Run]) -> dict:
    """Collect all results, of plain types."""
    seeds = {
        seed: dict(
            val={r.key: run.result(f'train {r.key}') for r in RECIPES},
            test={r.key: run.result(f'test {r.key}') for r in RECIPES},
            labels={n: run.result(f'label {n}') for n in ('1', '2')},
            second=better_student(run).key,
            jobs={
                name: [noted['seconds'], noted['cpu_seconds']]
                for name, noted in run.state['jobs'].items()
            },
        )
        for seed, run in zip(args.seeds, runs)
    }

    def miou(key: str) -> list[float]:
        return [seed['test'][key]['mIoU'] for seed in seeds.values()]

    rows = []
    for recipe in RECIPES:
        # Seed by seed: what is hard in one seed is so for both.
        pairs = zip(miou(recipe.key), miou(FINE_ONLY.key))
        rows.append(
            dict(
                key=recipe.key,
                title=recipe.title,
                labels=recipe.labels,
                val=[seed['val'][recipe.key] for seed in seeds.values()],
                test=miou(recipe.key),
                above_fine=[round(a - b, 2) for a, b in pairs],
            )
        )
    labels = {}
    for number in ('1', '2'):
        each = [seed['labels'][number] for seed in seeds.values()]
        labels[number] = dict(mIoU=fmean(one['mIoU'] for one in each))
        for key in ('coverage', 'precision'):
            labels[number][key] = {
                str(t): fmean(one[key][str(t)] for one in each)
                for t in THRESHOLDS
            }
    minutes = sum(run.total('cpu_seconds') for run in runs) / 60
    return dict(
        iters=list(args.iters),
        images=dict(zip(('fine', 'val', 'test', 'unlabelled'), args.images)),
        jobs=args.parallel,
        threads=args.threads,
        core_minutes=round(minutes, 1),
        rows=rows,
        mean=mean_rows([seed['test'] for seed in seeds.values()]),
        labels=labels,
        seeds=seeds,
    )


def table(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results."""
    split = f'test mIoU of {results["images"]["test"]} images'
    first, others = results['iters']
    rows = [
        [
            row['title'],
            row['labels'],
            f'{first}' if row['key'] == START.key else f'{first} + {others}',
            range_text(row['val']),
            range_text(row['test']),
            range_text(row['above_fine'], '{:+.1f}')
            if row['key'] != FINE_ONLY.key
            else '',
        ]
        for row in results['rows']
    ]
    header = ['', 'labels', 'iterations', 'val mIoU', split, 'above fine only']
    return header, rows


def label_table(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of labels; shares in percent."""
    header, rows = ['labels of', 'mIoU'], []
    for threshold in SHOWN_THRESHOLDS:
        header += [f'kept at {threshold}', 'of these right']
    for number, found in results['labels'].items():
        rows.append([f'round {number}', f'{found["mIoU"]:.1f}'])
        for threshold in map(str, SHOWN_THRESHOLDS):
            for key in ('coverage', 'precision'):
                rows[-1].append(f'{100 * found[key][threshold]:.1f} %')
    return header, rows


def findings(results: dict) -> list[str]:
    """Say in words what the table shows, whatever it shows."""
    rows = {row['key']: row for row in results['rows']}
    texts = []
    for key, row in rows.items():
        if key in (START.key, FINE_ONLY.key):
            continue
        above = row['above_fine']
        wins = sum(value > 0 for value in above)
        texts.append(
            f'{row["title"]}: {range_text(above, "{:+.1f}")} against fine '
            f'labels only; better in {wins} of {len(above)} seeds.'
        )
    gains = [
        seed['test'][SECOND.key]['mIoU'] - seed['test'][seed['second']]['mIoU']
        for seed in results['seeds'].values()
    ]
    texts.append(
        'Second round against the student that labelled for it: '
        f'{range_text(gains, "{:+.1f}")}.'
    )
    return texts


def _draw(run: Run, coarse) -> list[tuple[dict, ...]]:
    """Draw the first images: rows of pictures, uint8 (H, W, 3), by title."""
    palette = palette_of(coarse.metainfo)
    rounds = (read_autolabels(run, number) for number in (1, 2))
    samples = []
    for item, *labels in islice(zip(coarse, *rounds), NUM_SHOWN):
        first = {
            'image': item['img'][..., ::-1],
            'coarse polygons': palette[item['gt_seg_map']],
            'truth, not used': palette[labels[0].truth],
        }
        rows = [
            _draw_label(f'round {number}', label, palette)
            for number, label in enumerate(labels, 1)
        ]
        samples.append((first, *rows))
    return samples


def _draw_label(title: str, label: AutoLabel, palette) -> dict:
    pictures = {}
    for threshold in SHOWN_THRESHOLDS:
        kept = is_kept(threshold)[label.confidence]
        shown = palette[np.where(kept, label.label, 255)]
        pictures[f'{title}, from {threshold} on'] = shown
    pictures[f'{title}, confidence'] = heat(LEVELS[label.confidence])
    # Wrong pixels red, right ones grey, those that do not count black.
    errors = np.full_like(shown, 190)
    errors[label.label != label.truth] = (200, 30, 30)
    errors[label.truth == 255] = 0
    pictures[f'{title}, errors'] = errors
    return pictures
