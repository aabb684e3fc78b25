"""Training, testing and measuring what is compared, one stage at a time."""

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

from demo import street_scenes
from demo.methods import write_json
from demo.running import mmseg_tools, open_state, run_logged

from .presets import METHODS, PRESETS, TRAINED, load_config, recipe


class Comparison:
    """All stages of a comparison; what is done is not done again.

    Args:
        args (argparse.Namespace): As ``compare_fusion.py`` reads them.
        lock (file): From :func:`demo.running.lock_folder`.
    """

    def __init__(self, args, lock):
        self.args = args
        self.lock = lock
        self.preset = PRESETS[args.preset]
        self.root = args.work_dir / args.preset
        self.is_demo = args.preset == 'demo'
        cfg = load_config(self.preset.configs['single'])
        self.iters = args.iters or cfg.train_cfg.max_iters
        self.size = self._measure_size(cfg)
        self.data = self._data_root(cfg)
        self.state = self._load_state()

    def _measure_size(self, cfg):
        if self.args.measure_size:
            return tuple(self.args.measure_size)
        if self.args.gpus:
            return tuple(cfg.crop_size)
        return self.preset.cpu_size

    def _data_root(self, cfg):
        if self.is_demo:
            return self.root / 'data'
        found = self.args.data_root or cfg.train_dataloader.dataset.data_root
        return Path(found).absolute()

    def _load_state(self):
        settings = dict(
            seed=self.args.seed,
            iters=self.iters,
            images=list(self.args.images) if self.is_demo else None,
            data_root=None if self.is_demo else str(self.data),
            gpus=self.args.gpus,
            recipe=recipe(self.preset),
        )
        state = open_state(
            self.root,
            settings,
            what='a comparison',
            option='--work-dir',
            overwrite=self.args.overwrite,
        )
        return state or dict(settings=settings, done=[], miou={}, seconds={})

    def run(self):
        """Run the stages that are not done.

        Returns:
            dict: What :func:`fusion.report.write_report` writes.
        """
        stages = [] if self.args.measure_only else self._scored_stages()
        height, width = self.size
        title = (
            f'time a training step at {height}x{width}, {self.args.rounds} '
            f'rounds, {self.args.threads} threads'
        )
        stages.append((title, self._measure, None))
        for number, (title, stage, product) in enumerate(stages, 1):
            print(f'[{number}/{len(stages)}] {title}', flush=True)
            is_there = product is None or product.exists()
            if stage == self._measure:
                is_there = self.state.get('costs_of') == title
            if title not in self.state['done'] or not is_there:
                self._timed(title, stage)
        return dict(
            preset=self.args.preset,
            title=self.preset.title,
            seed=self.args.seed,
            iters=self.iters,
            miou={} if self.args.measure_only else self.state['miou'],
            costs=self.state['costs'],
            seconds=self.state['seconds'],
        )

    def _scored_stages(self):
        """List title, function and product of all but the measuring."""
        stages = []
        if not self.is_demo and not self.data.is_dir():
            raise SystemExit(
                f'{self.data}: no such folder; expected the data set (see '
                '--data-root). --measure-only needs none'
            )
        if self.is_demo:
            stages.append(('generate the scenes', self._generate, self.data))
        for key in TRAINED:
            train = partial(self._train, key)
            stages.append((f'train {key}', train, self._checkpoint(key)))
        for method in METHODS:
            scales = '/'.join(f'{scale:g}' for scale in method.test_scales)
            title = f'test {method.title} at {scales}'
            stages.append((title, partial(self._test, method), None))
        return stages

    def _timed(self, title, stage):
        start = time.monotonic()
        try:
            stage()
            if stage == self._measure:
                self.state['costs_of'] = title
            if title not in self.state['done']:
                self.state['done'].append(title)
        finally:  # the time of an interrupted stage counts, too
            seconds = self.state['seconds']
            spent = time.monotonic() - start
            seconds[title] = round(seconds.get(title, 0) + spent, 1)
            write_json(self.root / 'state.json', self.state)

    def _generate(self):
        num_images = dict(zip(street_scenes.SPLITS, self.args.images))
        street_scenes.generate(self.data, self.args.seed, num_images)

    def _checkpoint(self, key):
        return self.root / key / f'iter_{self.iters}.pth'

    def _train(self, key):
        options = [f'randomness.seed={self.args.seed}']
        if self.args.iters:
            options += [
                f'train_cfg.max_iters={self.iters}',
                f'train_cfg.val_interval={self.iters}',
                f'param_scheduler.0.end={self.iters}',
            ]
        arguments = ['--resume', '--work-dir', self.root / key]
        self._mmseg_tool('train.py', key, arguments, options)

    def _test(self, method):
        work_dir = self.root / 'tests' / method.key
        shutil.rmtree(work_dir, ignore_errors=True)
        options = []
        if method.tested != 'single':
            scales = ','.join(map(str, method.test_scales))
            options.append(f'model.test_cfg.scales=({scales})')
        checkpoint = self._checkpoint(method.trained)
        arguments = [checkpoint, '--work-dir', work_dir]
        self._mmseg_tool('test.py', method.tested, arguments, options)
        reports = [*work_dir.glob('*/*.json')]
        if len(reports) != 1 or 'mIoU' not in reports[0].read_text():
            raise SystemExit(
                f'{method.key}: expected one report of test.py with an mIoU '
                f'in {work_dir}, found {len(reports)} reports'
            )
        # All processes write this file, with times of their own at its end:
        # the text of one may be followed by the end of a longer one.
        report, _ = json.JSONDecoder().raw_decode(reports[0].read_text())
        miou = report['mIoU']
        self.state['miou'][method.key] = miou

    def _mmseg_tool(self, tool, key, arguments, options):
        loaders = ('train', 'val', 'test')
        roots = [
            f'{name}_dataloader.dataset.data_root={self.data}'
            for name in loaders
        ]
        command = [sys.executable]
        gpus = self.args.gpus
        if gpus > 1:
            command += ['-m', 'torch.distributed.run', '--standalone']
            command += [f'--nproc_per_node={gpus}']
            arguments = [*arguments, '--launcher', 'pytorch']
        command += [mmseg_tools() / tool, self.preset.configs[key], *arguments]
        command += ['--cfg-options', *roots, *options]
        run_logged(
            [str(part) for part in command],
            self.root / f'{tool[:-3]}_{key}.log',
            self.args.threads,
            self.lock,
            use_gpu=gpus > 0,
        )

    def _measure(self):
        # Not before: it takes seconds to import.
        import torch
        from fusion.costs import measure

        torch.set_num_threads(self.args.threads)
        self.state['costs'] = measure(
            self.preset,
            self.size,
            self.args.rounds,
            'cuda' if self.args.gpus else 'cpu',
        )
