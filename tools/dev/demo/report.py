"""Table and pictures of the demo."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
from driver.jobs import Run
from driver.labels import dataset, mean_rows
from driver.pages import heat, palette_of, write_sheet
from mmseg.apis import inference_model, init_model
from PIL import Image

from hmsa_mmseg.utils import markdown_table, write_json

from .experiment import METHODS, MODELS, predictions

NUM_SHOWN = 2  # the first images of the split, not chosen ones
OVERLAY = 0.65  # share of the class colours
SCALES = (0.5, 1.0, 2.0)  # of the pictures of attention


def report(args: Namespace, runs: list[Run]) -> tuple[str, list[Path]]:
    """Write ``results.json`` and ``pictures/``, of the first seed."""
    seeds = {
        seed: {m.key: run.result(f'test {m.key}') for m in METHODS}
        for seed, run in zip(args.seeds, runs)
    }
    names = ('iters', 'images', 'threads', 'parallel')
    results = {name: getattr(args, name) for name in names}
    for times in ('seconds', 'cpu_seconds'):
        spent = [round(run.total(times)) for run in runs]
        results[times] = dict(zip(args.seeds, spent))
    results.update(seeds=seeds, mean=mean_rows([*seeds.values()]))
    write_json(args.out / 'results.json', results)
    tables = {f'Seed {seed}': rows for seed, rows in seeds.items()}
    if len(seeds) > 1:
        mean = {f'Mean of {len(seeds)} seeds': results['mean']}
        tables = {**mean, **tables}
    truth = dataset(MODELS['single'], 'test_dataloader', runs[0].root)
    samples = _draw(runs[0], args, truth)
    folder = args.out / 'pictures'
    folder.mkdir(exist_ok=True)
    titles = {method.key: method.title for method in METHODS}
    names = ['input', 'ground truth', titles['single'], titles['averaged']]
    names.append(titles['hier-3'])
    write_sheet(folder / 'predictions.png', samples, names)
    names = ['input', 'attention at 0.5', 'weight of 1', 'weight of 2']
    write_sheet(folder / 'attention.png', samples, names)
    header = ['method', 'mIoU', *truth.metainfo['classes']]
    text = '\n\n'.join(
        f'{title}\n\n{markdown_table(header, _cells(rows))}'
        for title, rows in tables.items()
    )
    files = ('results.json', 'attention.html')
    return text, [args.out / name for name in files]


def _cells(rows: dict) -> list[list[str]]:
    """Cells of the table; ``rows`` by method, as of driver.labels.score."""
    return [
        [
            method.title,
            *(
                '-' if value is None else f'{value:.1f}'
                for value in (row['mIoU'], *row['IoU'].values())
            ),
        ]
        for method in METHODS
        for row in [rows[method.key]]
    ]


def _draw(run: Run, args: Namespace, truth) -> list[dict]:
    """Draw the first images: predictions, and maps of scales, by title."""
    palette = palette_of(truth.metainfo)
    folder = run.root / 'hierarchical'
    test_cfg = dict(mode='whole', scales=SCALES, scale_maps=True)
    model = init_model(
        str(MODELS['hierarchical']),
        str(folder / f'iter_{args.iters}.pth'),
        device='cpu',
        cfg_options={'model.test_cfg': test_cfg},
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
            path = predictions(run, method.key) / name
            colours = palette[np.array(Image.open(path))]
            mixed = OVERLAY * colours + (1 - OVERLAY) * image
            pictures[method.title] = mixed.round().astype(np.uint8)
        result = inference_model(model, item['img_path'])
        weights = result.scale_weights.data.numpy()
        # The weight of the lowest scale is its attention.
        for scale, weight in zip(SCALES, weights):
            what = 'weight of' if scale > SCALES[0] else 'attention at'
            pictures[f'{what} {scale:g}'] = heat(weight)
        samples.append(pictures)
    return samples
