"""The HTML page of a finished demo, and the pictures on it.

Shape shorthand in this module:
    H, W: image size.
"""

from __future__ import annotations

import os
from argparse import Namespace
from itertools import islice
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from demo.methods import read_ids
from PIL import Image

from hmsa_mmseg.datasets.confidence import LEVELS, is_kept
from hmsa_mmseg.visualization.data_uris import data_uri

from .bars import draw_bars
from .label_quality import AutoLabel, apply_map, read_autolabels
from .recipes import RECIPES, TEACHER
from .seed_run import LABELS, SeedRun
from .summary import (
    SHOWN_THRESHOLDS,
    findings,
    label_rows,
    markdown,
    table_rows,
)
from .truth import dataset_of

NUM_SHOWN = 4  # the first of the unlabelled images, not chosen ones
IGNORED = 255
#: Of pixels that are not trained on.
NO_COLOUR = (0, 0, 0)


def write_page(
    args: Namespace, runs: dict[int, SeedRun], results: dict
) -> list[Path]:
    """Write ``index.html``, ``table.md`` and ``pictures.png``.

    Args:
        args (Namespace): From the command line.
        runs (dict[int, SeedRun]): By seed, with all jobs done; the pictures
            are of the first one.
        results (dict): From :func:`summarize`.

    Returns:
        list[Path]: What can be looked at.
    """
    run = runs[args.seeds[0]]
    dataset = dataset_of(TEACHER.path, 'coarse_dataloader', run.data)
    samples = _draw_samples(run)
    _sheet(samples).save(args.out / 'pictures.png')
    tables = [table_rows(results), label_rows(results)]
    (args.out / 'table.md').write_text(
        '\n\n'.join(map(markdown, tables)) + '\n'
    )
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.filters['data_uri'] = lambda pixels: data_uri(
        Image.fromarray(pixels), optimize=True
    )
    metainfo = dataset.metainfo
    text = environment.get_template('page.html.j2').render(
        results=results,
        recipes=RECIPES,
        tables=tables,
        findings=findings(results),
        bars=draw_bars(results['rows']),
        reports=_reports(args, runs),
        samples=samples,
        seed=run.seed,
        classes=metainfo['classes'],
        colours=[f'#{bytes(c).hex()}' for c in metainfo['palette']],
    )
    partial = args.out / 'index.html.partial'
    partial.write_text(text, encoding='utf-8')
    partial.replace(args.out / 'index.html')
    names = ('table.md', 'results.json', 'index.html')
    return [args.out / name for name in names]


def _reports(args, runs) -> list[tuple[int, int, str]]:
    """List seed, round and place of the reports on labels."""
    return [
        (
            seed,
            number,
            os.path.relpath(run.labels(number) / 'report.html', args.out),
        )
        for seed, run in runs.items()
        for number in (1, 2)
    ]


def _draw_samples(run: SeedRun) -> list[list[tuple[str, np.ndarray]]]:
    """Draw titles and pictures, uint8 (H, W, 3), of the first images."""
    coarse = dataset_of(TEACHER.path, 'coarse_dataloader', run.data)
    palette = np.full((256, 3), NO_COLOUR, np.uint8)
    palette[: len(coarse.metainfo['palette'])] = coarse.metainfo['palette']
    rounds = [
        read_autolabels(run.data, f'{LABELS}/round_{turn}') for turn in (1, 2)
    ]
    samples = []
    for info, *labels in islice(zip(coarse, *rounds), NUM_SHOWN):
        polygons = apply_map(read_ids(info['seg_map_path']), info['label_map'])
        pictures = [
            ('image', read_ids(info['img_path'])),
            ('coarse polygons', palette[polygons]),
            # Beside the polygons; the next rows are of the rounds.
            ('truth, not used', palette[labels[0].truth]),
        ]
        for turn, label in enumerate(labels, 1):
            pictures += _draw_label(f'round {turn}', label, palette)
        samples.append(pictures)
    return samples


def _draw_label(title: str, label: AutoLabel, palette) -> list:
    kept = [
        (
            f'{title}, from {threshold} on',
            palette[
                np.where(
                    is_kept(threshold)[label.confidence], label.label, IGNORED
                )
            ],
        )
        for threshold in SHOWN_THRESHOLDS
    ]
    return [
        *kept,
        (f'{title}, confidence', _heat(LEVELS[label.confidence])),
        (f'{title}, errors', _errors(label)),
    ]


def _errors(label: AutoLabel) -> np.ndarray:
    """Wrong pixels red, right ones grey, those that do not count black."""
    colours = np.full((*label.truth.shape, 3), 190, np.uint8)
    colours[label.label != label.truth] = (200, 30, 30)
    colours[label.truth == IGNORED] = NO_COLOUR
    return colours


def _heat(values: np.ndarray) -> np.ndarray:
    """Colour an array in [0, 1], dark to bright."""
    colours = matplotlib.colormaps['viridis'](values)[..., :3]
    return (255 * colours).round().astype(np.uint8)


def _sheet(samples, num_rows: int = 2, margin: int = 4) -> Image.Image:
    """Put the pictures of the first images on one sheet, without titles."""
    columns = [0, 1, 3, 4, 5, 2]
    height, width, _ = samples[0][0][1].shape
    rows = samples[:num_rows]
    size = (
        (width + margin) * len(columns) - margin,
        (height + margin) * len(rows) - margin,
    )
    sheet = Image.new('RGB', size, 'white')
    for row, pictures in enumerate(rows):
        for place, column in enumerate(columns):
            tile = Image.fromarray(pictures[column][1])
            at = (place * (width + margin), row * (height + margin))
            sheet.paste(tile, at)
    return sheet.quantize(256)  # a third of the file
