"""One scale against several, on generated street scenes: `make demo`.

Trains a single-scale and a hierarchical model, scores five ways to use them,
and writes a table, pictures and an HTML page: every image with attention and
single scales.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import scenes
from driver.commands import CONFIGS, TOOLS, Models, recipe
from driver.jobs import Run
from driver.labels import dataset, score

#: Model: its config. The two share everything but segmentor, head, scales.
MODELS = {
    'single': CONFIGS / 'demo/fcn_r18s1_1xb4-1k_street-scenes-128x256.py',
    'hierarchical': CONFIGS
    / 'demo/hmsa_r18s1_fcn_1xb4-1k_street-scenes-128x256.py',
}
#: Where the configs look for the scenes.
DATA = 'data/street_scenes'


class Method(NamedTuple):
    """One row of the table; its scales are for ``--cfg-options``."""

    key: str
    title: str
    model: str
    scales: str = ''
    tta: bool = False


METHODS = (
    Method('single', 'Single scale 1', 'single'),
    Method('averaged', 'Averaged 0.5/1/2', 'single', tta=True),
    Method('hier-2', 'Hierarchical 0.5/1', 'hierarchical', '0.5,1.0'),
    Method('hier-3', 'Hierarchical 0.5/1/2', 'hierarchical', '0.5,1.0,2.0'),
    Method(
        *('hier-4', 'Hierarchical 0.25/0.5/1/2', 'hierarchical'),
        '0.25,0.5,1.0,2.0',
    ),
)
#: Whose pictures make the second page: that of the first, beside the second.
SHOWN = ('hier-3', 'single')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this experiment has beside the common options."""
    parser.set_defaults(work_dir=Path('demo_out'), seeds=[0])
    parser.add_argument('--iters', type=int, default=1000)
    parser.add_argument(
        '--images',
        type=int,
        nargs=3,
        default=(240, 60, 60),
        metavar=('TRAIN', 'VAL', 'TEST'),
    )


def plan(args: argparse.Namespace) -> list[Run]:
    """List the jobs of each seed."""
    digest = recipe(MODELS.values(), Path(scenes.__file__))
    return [_plan(args, seed, digest) for seed in args.seeds]


def _plan(args: argparse.Namespace, seed: int, digest: str) -> Run:
    run = seed_run(args, seed, digest, DATA)
    models = Models(run, seed)
    for key, config in MODELS.items():
        models.train(key, config, args.iters, needs=['scenes'])
    for method in METHODS:
        _add_test(run, models, method)
    if seed == args.seeds[0]:
        (ours, title), (other, compared) = (
            (run.root / 'shown' / method.key, method.title)
            for key in SHOWN
            for method in METHODS
            if method.key == key
        )
        page = args.work_dir / 'attention.html'
        command = [sys.executable, TOOLS / 'report.py', ours, '--out', page]
        command += ['--name', title, '--title', 'Demo: every image']
        command += ['--compare', f'{compared}={other}']
        needs = [f'test {key}' for key in SHOWN]
        run.add('page of all images', lambda: command, page, needs=needs)
    return run


def seed_run(
    args: argparse.Namespace, seed: int, digest: str, data: str
) -> Run:
    """Make the run of a seed, with the job that draws its data set."""
    settings = dict(iters=args.iters, images=args.images, recipe=digest)
    settings['seed'] = seed
    run = Run(args.work_dir / f'seed{seed}', settings)
    add_scenes(run, seed, dict(zip(scenes.SPLITS, args.images)), data)
    return run


def add_scenes(run: Run, seed: int, counts: dict, data: str) -> None:
    """Add the job ``scenes``, which draws the data set of a run."""
    command = [sys.executable, scenes.__file__, '--out', run.root / data]
    command += ['--seed', seed]
    for split, count in counts.items():
        command += [f'--{split}', count]
    run.add('scenes', lambda: command, run.root / data)


def _add_test(run: Run, models: Models, method: Method) -> None:
    key, config = method.key, MODELS[method.model]
    options = []
    if method.scales:
        options.append(f'model.test_cfg.scales=({method.scales})')
    folders = [predictions(run, key)]
    arguments = ['--out', folders[0]] + ['--tta'] * method.tta
    if key in SHOWN:
        folders.append(run.root / 'shown' / key)
        arguments += ['--show-dir', folders[1]]

    def finish(result: dict) -> dict:
        truth = dataset(config, 'test_dataloader', run.root, pack=True)
        return score(truth, folders[0], result)

    models.test(
        *(key, method.model, config, arguments, options, folders, finish)
    )


def predictions(run: Run, key: str) -> Path:
    """Return the folder of a method's predictions."""
    return run.root / 'predictions' / key
