"""Table, pictures and page of the demo."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
from driver.jobs import Run
from driver.labels import dataset, mean_rows
from driver.pages import heat, palette_of, write_page, write_sheet
from mmseg.apis import inference_model, init_model
from PIL import Image

from hmsa_mmseg.utils import markdown_table, write_json

from .experiment import METHODS, MODELS, predictions

NUM_SHOWN = 4  # the first images of the split, not chosen ones
OVERLAY = 0.65  # share of the class colours
SCALES = (0.5, 1.0, 2.0)  # of the pictures of attention


def report(args: Namespace, runs: list[Run]) -> tuple[str, list[Path]]:
    """Write ``results.json``, ``pictures/`` and ``index.html``."""
    seeds = {
        seed: {
            method.key: run.result(f'test {args.split}/{method.key}')
            for method in METHODS
        }
        for seed, run in zip(args.seeds, runs)
    }
    totals = {
        times: {s: round(r.total(times)) for s, r in zip(args.seeds, runs)}
        for times in ('seconds', 'cpu_seconds')
    }
    names = ('split', 'iters', 'images', 'threads', 'parallel')
    results = {name: getattr(args, name) for name in names}
    results.update(totals, seeds=seeds, mean=mean_rows([*seeds.values()]))
    write_json(args.out / 'results.json', results)
    tables = {f'Seed {seed}': _cells(rows) for seed, rows in seeds.items()}
    if len(seeds) > 1:
        mean = {f'Mean of {len(seeds)} seeds': _cells(results['mean'])}
        tables = {**mean, **tables}
    truth = dataset(MODELS['single'], f'{args.split}_dataloader', runs[0].root)
    samples = _draw(runs[0], args, truth)
    folder = args.out / 'pictures'
    folder.mkdir(exist_ok=True)
    # Two images, by the titles of their pictures.
    flat = [{**first, **second} for first, second in samples[:2]]
    titles = {method.key: method.title for method in METHODS}
    names = ['input', 'ground truth', titles['single'], titles['averaged']]
    write_sheet(folder / 'predictions.png', flat, [*names, titles['hier-3']])
    names = ['input', 'attention at 0.5', 'weight of 1', 'weight of 2']
    write_sheet(folder / 'attention.png', flat, names)
    miou = {key: row['mIoU'] for key, row in results['mean'].items()}
    write_page(
        args.out / 'index.html',
        'demo/page.html.j2',
        results=results,
        tables=tables,
        header=_header(truth.metainfo),
        metainfo=truth.metainfo,
        above_single=miou['hier-3'] - miou['single'],
        above_averaged=miou['hier-3'] - miou['averaged'],
        is_papers_order=miou['hier-3'] > miou['averaged'] > miou['single'],
        minutes=sum(totals['cpu_seconds'].values()) / 60 / len(seeds),
        samples=samples,
    )
    text = '\n\n'.join(
        f'{title}\n\n{markdown_table(_header(truth.metainfo), cells)}'
        for title, cells in tables.items()
    )
    files = ('results.json', 'index.html', 'attention.html')
    return text, [args.out / name for name in files]


def _header(metainfo: dict) -> list[str]:
    return ['method', 'mIoU', *metainfo['classes']]


def _cells(rows: dict) -> list[list[str]]:
    """Cells of the table; ``rows`` by method, as of driver.labels.score."""
    return [
        [
            method.title,
            *(
                '-' if value is None else f'{value:.1f}'
                for row in [rows[method.key]]
                for value in (row['mIoU'], *row['IoU'].values())
            ),
        ]
        for method in METHODS
    ]


def _draw(run: Run, args: Namespace, truth) -> list[tuple[dict, dict]]:
    """Draw the first images: predictions, and maps of scales, by title."""
    palette = palette_of(truth.metainfo)
    folder = run.root / 'hierarchical'
    model = init_model(
        str(MODELS['hierarchical']),
        str(folder / f'iter_{args.iters}.pth'),
        device='cpu',
        cfg_options={
            'model.test_cfg': dict(
                mode='whole', scales=SCALES, scale_maps=True
            )
        },
    )
    samples = []
    for number in range(min(NUM_SHOWN, len(truth))):
        item = truth[number]
        image = item['img'][..., ::-1]
        pictures = {
            'input': image,
            'ground truth': palette[item['gt_seg_map']],
        }
        for method in METHODS:
            name = Path(item['img_path']).name
            path = predictions(run, method.key, args.split) / name
            colours = palette[np.array(Image.open(path))]
            mixed = OVERLAY * colours + (1 - OVERLAY) * image
            pictures[method.title] = mixed.round().astype(np.uint8)
        result = inference_model(model, item['img_path'])
        attention = result.scale_attn.data.numpy()
        weights = result.scale_weights.data.numpy()
        maps = {
            f'attention at {scale:g}': heat(attn)
            for scale, attn in zip(SCALES, attention)
        }
        # The weight of the lowest scale is its attention.
        for scale, weight in zip(SCALES[1:], weights[1:]):
            maps[f'weight of {scale:g}'] = heat(weight)
        samples.append((pictures, maps))
    return samples
