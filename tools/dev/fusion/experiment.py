"""Ways to fuse scales, Table 1 of the paper, in one run: `make compare`.

Trains a single scale, attention to scale and hierarchical attention, tests
them and average pooling, measures what a training step costs, and writes a
table as Markdown and JSON, and a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import scenes
from demo.experiment import DATA, MODELS, add_scenes
from driver.commands import CONFIGS, Models, iterations, recipe
from driver.jobs import Run
from mmengine.config import Config

DEMO = 'r18s1_fcn_1xb4-1k_street-scenes-128x256.py'
MAPILLARY = 'deeplabv3plus_8xb2-225k_mapillary-1024x1024.py'


class Paper(NamedTuple):
    """A row of Table 1 of https://arxiv.org/abs/2005.10821, as cited.

    Not compared with the paper's own pages, which were not at hand. mIoU is of
    Mapillary Vistas, val, DeepLabV3+ with ResNet-50; FLOPs of training and the
    time of a step are relative to the single scale.
    """

    miou: float
    flops: float
    time: float


class Method(NamedTuple):
    """One row of the table: what is trained, and tested with which config."""

    key: str
    title: str
    trained: str
    tested: str
    test_scales: tuple
    paper: Paper | None = None


THREE = (0.5, 1.0, 2.0)
HIERARCHICAL = ('Hierarchical', 'hierarchical', 'hierarchical')
METHODS = (
    Method(
        *('single', 'Single scale', 'single', 'single'),
        *((1.0,), Paper(47.7, 1.0, 1.0)),
    ),
    # Trained at one scale: it needs no training of its own.
    Method(
        *('average', 'Average pooling', 'single', 'average'),
        *(THREE, Paper(49.4, 1.0, 1.0)),
    ),
    Method(
        *('explicit', 'Explicit (attention to scale)', 'explicit', 'explicit'),
        *(THREE, Paper(51.4, 5.25, 3.08)),
    ),
    Method('hier-2', *HIERARCHICAL, (0.5, 1.0)),
    Method('hier-3', *HIERARCHICAL, THREE, Paper(51.6, 1.25, 1.17)),
    Method('hier-4', *HIERARCHICAL, (0.25, *THREE), Paper(52.2, 1.25, 1.17)),
)
#: The models that are trained, and the scales they are trained at.
TRAINED = {'single': (1.0,), 'explicit': THREE, 'hierarchical': (0.5, 1.0)}


class Preset(NamedTuple):
    """The models of one comparison, and the step measured without a GPU."""

    title: str
    configs: dict
    cpu_size: tuple
    batch_size: int


def _configs(single: Path, name: str) -> dict[str, Path]:
    heads = dict(average='average', explicit='attnscale', hierarchical='hmsa')
    folder = CONFIGS / 'fusion'
    return dict(
        single=single,
        **{key: folder / f'{head}_{name}' for key, head in heads.items()},
    )


PRESETS = {
    'demo': Preset(
        'First stage of ResNet-18 + FCN, generated street scenes',
        _configs(MODELS['single'], DEMO),
        cpu_size=(128, 256),
        batch_size=4,
    ),
    'mapillary': Preset(
        'DeepLabV3+ with ResNet-50, Mapillary Vistas (65 classes)',
        _configs(
            CONFIGS / 'fusion' / MAPILLARY.replace('_', '_r50-d8_', 1),
            f'r50-d8_{MAPILLARY}',
        ),
        # A 16th of the crop: what two cores do in minutes.
        cpu_size=(256, 256),
        batch_size=2,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this experiment has beside the common options."""
    parser.set_defaults(
        work_dir=Path('compare_out'),
        seeds=[0],
        # What is timed runs alone, on all cores.
        parallel=1,
        threads=len(os.sched_getaffinity(0)),
    )
    parser.add_argument('--preset', choices=PRESETS, default='demo')
    parser.add_argument(
        '--measure-only',
        action='store_true',
        help='the costs of a step alone; needs no data',
    )
    parser.add_argument('--iters', type=int, help="default: the config's")
    parser.add_argument(
        '--data-root', type=Path, help='of the mapillary preset'
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=3,
        default=(240, 60, 60),
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='to generate, in the demo preset',
    )
    parser.add_argument(
        '--gpus', type=int, help='to train with; 0: on the CPU'
    )
    parser.add_argument(
        '--rounds', type=int, default=10, help='of the timing of a step'
    )
    parser.add_argument(
        '--measure-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help="image size of the step that is timed; default: the config's "
        'crop with a GPU, else a size for two cores',
    )


def plan(args: argparse.Namespace) -> list[Run]:
    """List the jobs: those of the scores, and the measurement."""
    preset, is_demo = PRESETS[args.preset], args.preset == 'demo'
    if len(args.seeds) > 1:
        raise SystemExit('expected one seed; a table is of one')
    cfg = Config.fromfile(preset.configs['single'])
    data = args.data_root or cfg.train_dataloader.dataset.data_root
    settings = dict(
        seed=args.seeds[0],
        iters=args.iters or iterations(preset.configs['single']),
        images=args.images if is_demo else None,
        data_root=None if is_demo else str(Path(data).absolute()),
        gpus=args.gpus,
        recipe=recipe(preset.configs.values(), Path(scenes.__file__)),
    )
    run = Run(args.work_dir / args.preset, settings)
    if not args.measure_only:
        if is_demo:
            counts = dict(zip(scenes.SPLITS, args.images))
            add_scenes(run, args.seeds[0], counts, DATA)
        elif not Path(data).is_dir():
            raise SystemExit(
                f'{data}: no such folder; expected the data set (see '
                '--data-root). --measure-only needs none'
            )
        _add_scored(run, preset, args, settings['data_root'])
    size = tuple(cfg.crop_size) if args.gpus else preset.cpu_size
    _add_measurement(run, args, args.measure_size or size)
    return [run]


def _add_scored(run: Run, preset: Preset, args, data: str | None) -> None:
    roots = [
        f'{name}_dataloader.dataset.data_root={data}'
        for name in ('train', 'val', 'test')
        if data
    ]
    models = Models(run, args.seeds[0], args.gpus, roots)
    for key in TRAINED:
        needs = [name for name in run.jobs if name == 'scenes']
        models.train(key, preset.configs[key], args.iters, needs=needs)
    for method in METHODS:
        options = []
        if method.tested != 'single':
            scales = ','.join(map(str, method.test_scales))
            options = [f'model.test_cfg.scales=({scales})']
        config = preset.configs[method.tested]
        models.test(method.key, method.trained, config, options=options)


def _add_measurement(run: Run, args, size) -> None:
    """Add the last job, which runs alone; other options, another job."""
    size = 'x'.join(map(str, size))
    name = f'time a training step at {size}, {args.rounds} rounds'
    name += f', {args.threads} threads'
    out = run.root / f'costs_{size}_{args.rounds}_{args.threads}.json'
    command = [sys.executable, '-m', 'fusion.costs', args.preset, out]
    command += ['--size', *size.split('x'), '--rounds', args.rounds]
    run.add(
        *(name, lambda: command, out, [*run.jobs]),
        finish=lambda: json.loads(out.read_text()),
    )
