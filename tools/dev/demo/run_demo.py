"""Train and compare a single-scale and a hierarchical model on the CPU.

Generates street scenes, trains both models with mmseg's train.py, scores five
ways to use them with mmseg's test.py, and writes a table, pictures and two
HTML pages: the comparison, and every image with attention and single scales. A
run that was interrupted goes on where it was.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import street_scenes
from methods import (
    METHODS,
    MODELS,
    class_iou,
    load_dataset,
    markdown_table,
    mean_rows,
    read_ids,
    to_class_ids,
    write_json,
)
from running import lock_folder, mmseg_tools, open_state, run_logged


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default='demo_out')
    parser.add_argument(
        '--seeds',
        '--seed',
        type=int,
        nargs='+',
        default=[0],
        help='of the data and of the training; one full run for each',
    )
    parser.add_argument('--iters', type=int, default=1000)
    parser.add_argument(
        '--split',
        choices=('val', 'test'),
        default='test',
        help='what the table is of; the demo was tuned on val',
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=3,
        default=(240, 60, 60),
        metavar=('TRAIN', 'VAL', 'TEST'),
    )
    parser.add_argument(
        '--threads', type=int, default=len(os.sched_getaffinity(0))
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='discard the results of runs with other settings',
    )
    return parser.parse_args(argv)


# Their pictures make the second page.
SHOWN = ('hier-3', 'single')
REPORT = Path(__file__).resolve().parents[2] / 'report.py'


class SeedRun:
    """All stages of one seed; what is done is not done again.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.
        seed (int): Seed of data and training.
        lock (file): From :func:`lock_folder`.
    """

    def __init__(self, args, seed, lock):
        self.args = args
        self.seed = seed
        self.lock = lock
        self.root = args.out / f'seed{seed}'
        self.data = self.root / 'data'
        self.state = self._load_state()

    def _load_state(self):
        texts = [path.read_bytes() for path in _recipe_files()]
        settings = dict(
            seed=self.seed,
            iters=self.args.iters,
            images=list(self.args.images),
            recipe=hashlib.sha256(b''.join(texts)).hexdigest()[:12],
        )
        state = open_state(
            self.root,
            settings,
            what='a run',
            option='--out',
            overwrite=self.args.overwrite,
        )
        if state is not None:
            return state
        state = dict(settings=settings, done=[], val={}, test={})
        state.update(seconds={}, cpu_seconds={})
        write_json(self.root / 'state.json', state)
        return state

    def _timed(self, name, function, *args):
        start, cpu_start = time.monotonic(), sum(os.times()[:4])
        try:
            function(*args)
            self.state['done'].append(name)
        finally:  # the time of an interrupted stage counts, too
            for key, spent in (
                ('seconds', time.monotonic() - start),
                ('cpu_seconds', sum(os.times()[:4]) - cpu_start),
            ):
                times = self.state[key]
                times[name] = round(times.get(name, 0) + spent, 1)
            write_json(self.root / 'state.json', self.state)

    def run(self):
        """Run all stages; returns the rows of the split's table."""
        split = self.args.split
        total = 1 + len(MODELS) + len(METHODS)
        number = 1
        num_images = dict(zip(street_scenes.SPLITS, self.args.images))
        self._say(number, total, 'generate the scenes')
        if 'data' not in self.state['done'] or not self.data.exists():
            self._timed('data', self._generate, num_images)
        for model in MODELS:
            number += 1
            self._say(number, total, title := f'train {model}')
            is_done = title in self.state['done']
            if not is_done or not self.checkpoint(model).exists():
                self._timed(title, self._train, model)
        for method in METHODS:
            number += 1
            self._say(number, total, f'test {method.title}')
            if method.key not in self.state[split]:
                name = f'{split} {method.key}'
                self._timed(name, self._test, method)
        return self.state[split]

    def _say(self, number, total, title):
        print(f'[seed {self.seed}, {number}/{total}] {title}', flush=True)

    def total(self, times):
        """Add up the 'seconds' or the 'cpu_seconds' of the split's stages."""
        other = 'val ' if self.args.split == 'test' else 'test '
        return sum(
            value
            for name, value in self.state[times].items()
            if not name.startswith(other)
        )

    def checkpoint(self, model):
        """Return the path of a model's last checkpoint."""
        return self.root / model / f'iter_{self.args.iters}.pth'

    def predictions(self, method):
        """Return the folder of a method's predictions."""
        return self.root / 'predictions' / self.args.split / method.key

    def shown(self, key):
        """Return the folder of the pictures of a method."""
        return self.root / 'shown' / self.args.split / key

    def write_attention_page(self, path):
        """Write the page of all images with the maps of their scales."""
        ours, other = SHOWN
        titles = {method.key: method.title for method in METHODS}
        command = [sys.executable, REPORT, self.shown(ours), '--out', path]
        command += ['--name', titles[ours], '--title', 'Demo: every image']
        command += ['--compare', f'{titles[other]}={self.shown(other)}']
        run_logged(
            [str(part) for part in command],
            self.root / 'report.log',
            self.args.threads,
            self.lock,
        )

    def _generate(self, num_images):
        street_scenes.generate(self.data, self.seed, num_images)

    def _train(self, model):
        iters = self.args.iters
        self._mmseg_tool(
            'train.py',
            [MODELS[model], '--resume', '--work-dir', self.root / model],
            [
                f'randomness.seed={self.seed}',
                f'train_cfg.max_iters={iters}',
                f'train_cfg.val_interval={iters}',
                f'param_scheduler.0.end={iters}',
            ],
        )

    def _test(self, method):
        work_dir = self.root / 'tests' / self.args.split / method.key
        predictions = self.predictions(method)
        for folder in (work_dir, predictions, self.shown(method.key)):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        split, options = self.args.split, []
        for key, kind in (('img', 'leftImg8bit'), ('seg_map', 'gtFine')):
            prefix = f'test_dataloader.dataset.data_prefix.{key}_path'
            options.append(f'{prefix}={kind}/{split}')
        if method.model == 'hierarchical':
            scales = ','.join(map(str, method.scales))
            options.append(f'model.test_cfg.scales=({scales})')
        arguments = [MODELS[method.model], self.checkpoint(method.model)]
        arguments += ['--work-dir', work_dir, '--out', predictions]
        arguments += ['--tta'] if method.tta else []
        if method.key in SHOWN:
            arguments += ['--show-dir', self.shown(method.key)]
        self._mmseg_tool('test.py', arguments, options)
        (report,) = work_dir.glob('*/*.json')
        stock_miou = json.loads(report.read_text())['mIoU']
        self.state[split][method.key] = self._score(method, stock_miou)

    def _score(self, method, stock_miou):
        dataset = load_dataset(method.model, self.data, self.args.split)
        folder = self.predictions(method)

        def pairs():
            for info in dataset:
                name = Path(info['img_path']).name
                true = to_class_ids(read_ids(info['seg_map_path']), dataset)
                yield read_ids(folder / name), true

        classes = dataset.metainfo['classes']
        iou = class_iou(pairs(), len(classes))
        miou = float(_nanmean(iou))
        if abs(miou - stock_miou) > 0.01:  # test.py rounds to 0.01
            raise RuntimeError(
                f'{method.key}: test.py reports mIoU {stock_miou}, its '
                f'predictions in {folder} have {miou:.2f}'
            )
        values = [None if math.isnan(v) else round(float(v), 2) for v in iou]
        return dict(mIoU=round(stock_miou, 2), IoU=dict(zip(classes, values)))

    def _mmseg_tool(self, tool, arguments, options):
        loaders = ('train', 'val', 'test')
        roots = [
            f'{name}_dataloader.dataset.data_root={self.data}'
            for name in loaders
        ]
        command = [sys.executable, mmseg_tools() / tool, *arguments]
        command += ['--cfg-options', *roots, *options]
        run_logged(
            [str(part) for part in command],
            self.root / f'{tool[:-3]}.log',
            self.args.threads,
            self.lock,
        )


def _recipe_files():
    bases = MODELS['single'].parents[1] / '_base_'
    return [
        *MODELS.values(),
        bases / 'datasets' / 'street_scenes.py',
        bases / 'schedules' / 'schedule_demo.py',
        Path(street_scenes.__file__),
    ]


def _nanmean(values):
    valid = values[values == values]
    return valid.mean() if len(valid) else math.nan


def main(argv=None):
    """Run the demo."""
    args = parse_args(argv)
    args.out = args.out.absolute()
    # A plain kill, too, ends the program that is running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    lock = lock_folder(args.out)
    runs = {seed: SeedRun(args, seed, lock) for seed in args.seeds}
    rows = {seed: run.run() for seed, run in runs.items()}
    # Not before: it takes seconds to import.
    from report import write_report

    write_report(args, runs, rows)
    runs[args.seeds[0]].write_attention_page(args.out / 'attention.html')
    classes = [*rows[args.seeds[0]]['single']['IoU']]
    for seed in args.seeds:
        minutes = runs[seed].total('seconds') / 60
        print(f'\n{args.split} split, seed {seed}, {minutes:.1f} minutes\n')
        print(markdown_table(rows[seed], classes))
    if len(rows) > 1:
        print(f'\nmean of {len(rows)} seeds\n')
        print(markdown_table(mean_rows([*rows.values()]), classes))
    print()
    for name in ('results.json', 'index.html', 'attention.html'):
        print(args.out / name)


if __name__ == '__main__':
    main()
