"""All that is done with one seed, as jobs."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from demo.methods import write_json
from demo.running import mmseg_tools, open_state
from demo.street_scenes import SPLITS

from .jobs import Job
from .label_quality import label_quality
from .recipes import (
    ALL_TRUE,
    FINE_ONLY,
    RECIPES,
    SECOND,
    START,
    STUDENTS,
    TEACHER,
    Recipe,
    better_student,
)
from .scenes import EXTRA
from .scores import score, val_miou
from .settings import training_options

TOOLS = Path(__file__).resolve().parents[2]
#: Folder of the auto-labels, in that of the data.
LABELS = 'autolabels'


class SeedRun:
    """The data, trainings, labels and tests of one seed.

    Args:
        args (Namespace): From the command line of ``run_demo.py``.
        seed (int): Of the scenes and of the training.
        recipe (str): Digest of all that the results depend on beside
            ``args``.
    """

    def __init__(self, args: Namespace, seed: int, recipe: str) -> None:
        self.args = args
        self.seed = seed
        self.root = args.out / f'seed{seed}'
        self.data = self.root / 'data'
        settings = dict(
            seed=seed,
            iters=list(args.iters),
            images=list(args.images),
            recipe=recipe,
        )
        state = open_state(
            *(self.root, settings, 'a run', '--out', args.overwrite)
        )
        if state is None:
            state = dict(settings=settings, done=[], val={}, test={})
            state.update(labels={}, seconds={}, cpu_seconds={})
        self.state = state
        self._save()

    def _save(self) -> None:
        write_json(self.root / 'state.json', self.state)

    def note(self, key: str, spent: float, cpu: float, is_done: bool) -> None:
        """Note that a job has ended, and what time it has taken."""
        for times, value in (('seconds', spent), ('cpu_seconds', cpu)):
            before = self.state[times].get(key, 0)
            self.state[times][key] = round(before + value, 1)
        if is_done:
            self.state['done'].append(key)
        self._save()

    def is_done(self, key: str) -> bool:
        """Whether a job is done and its files are there."""
        title = key.split(' ', 2)[2]
        kind, _, name = title.partition(' ')
        path = dict(
            data=lambda: self.data / 'gtCoarse',
            train=lambda: self.checkpoint(name),
            label=lambda: self.labels(int(name)) / 'manifest.jsonl',
            report=lambda: self.labels(int(name)) / 'report.html',
            test=lambda: self.predictions(name),
        )[kind]()
        return key in self.state['done'] and path.exists()

    def iters(self, key: str) -> int:
        """Iterations of a recipe, without those of its start."""
        first, others = self.args.iters
        return first if key == START.key else others

    def checkpoint(self, key: str) -> Path:
        """Path of a recipe's last checkpoint."""
        return self.root / key / f'iter_{self.iters(key)}.pth'

    def config(self, key: str) -> Path:
        """Path of a recipe's config, as train.py has written it."""
        return self.root / key / self._recipe(key).path.name

    def predictions(self, key: str) -> Path:
        """Folder of a recipe's predictions on the test split."""
        return self.root / 'predictions' / key

    def labels(self, number: int) -> Path:
        """Folder of the auto-labels of a round."""
        return self.data / LABELS / f'round_{number}'

    def labeller(self, number: int) -> Recipe:
        """Who labels in a round."""
        return TEACHER if number == 1 else better_student(self.state['val'])

    def _recipe(self, key: str) -> Recipe:
        """Find a recipe; the second student's config is the first's."""
        recipe = {recipe.key: recipe for recipe in RECIPES}[key]
        if recipe is SECOND:
            chosen = better_student(self.state['val'])
            recipe = recipe._replace(config=chosen.config)
        return recipe

    def jobs(self) -> list[Job]:
        """List what there is to do; what others wait for comes first."""
        students = tuple(recipe.key for recipe in STUDENTS)
        jobs = [
            self._job('data', self._generate, (), sum(self.args.images) / 40),
            self._train(START),
            self._train(TEACHER),
            self._label(1, (TEACHER.key,)),
            *(self._train(recipe) for recipe in STUDENTS),
            self._label(2, students),
            self._train(SECOND),
            *(self._train(recipe) for recipe in (FINE_ONLY, ALL_TRUE)),
            *(self._report(number) for number in (1, 2)),
            *(self._test(recipe) for recipe in RECIPES),
        ]
        return jobs

    def _job(self, title, command, needs, cost, finish=lambda: None) -> Job:
        def name(part):
            return f'seed {self.seed} {part}'

        log = self.root / 'logs' / f'{title.replace(" ", "_")}.log'
        needs = tuple(map(name, needs))
        return Job(name(title), command, needs, cost, log, finish)

    def _generate(self) -> list:
        script = Path(__file__).with_name('scenes.py')
        return [
            *(sys.executable, script, self.data),
            *(self.seed, *self.args.images),
        ]

    def _train(self, recipe: Recipe) -> Job:
        def command():
            labels = f'{LABELS}/round_{recipe.round}'
            config = self._recipe(recipe.key).path
            work_dir, iters = self.root / recipe.key, self.iters(recipe.key)
            options = training_options(
                *(config, self.data, labels, self.seed, iters)
            )
            program = [sys.executable, mmseg_tools() / 'train.py', config]
            program += ['--work-dir', work_dir]
            if self.checkpoint(recipe.key).exists():
                # It was stopped in the validation at its end, which train.py
                # would not repeat.
                shutil.rmtree(work_dir)
            if (work_dir / 'last_checkpoint').exists():
                # Without load_from: mmseg would resume from that.
                program.append('--resume')
            elif recipe is not START:
                options.append(f'load_from={self.checkpoint(START.key)}')
            return [*program, '--cfg-options', *options]

        def finish():
            value = val_miou(self.root / recipe.key)
            self.state['val'][recipe.key] = value

        needs = (f'label {recipe.round}',) if recipe.round else ()
        needs += ('data' if recipe is START else f'train {START.key}',)
        # Seconds on one core of 2.8 GHz, as are the other costs.
        cost = 10 + 0.25 * self.iters(recipe.key)
        return self._job(f'train {recipe.key}', command, needs, cost, finish)

    def _label(self, number: int, after: tuple) -> Job:
        def command():
            teacher = self.labeller(number).key
            program = [sys.executable, TOOLS / 'autolabel.py']
            program += [self.config(teacher), self.checkpoint(teacher)]
            program += [self.data / 'leftImg8bit' / EXTRA, self.data / LABELS]
            program += ['--round', number, '--no-report']
            program += ['--check', 'config:val_dataloader']
            return [*program, '--threads', 1, '--device', 'cpu']

        def finish():
            self.state['labels'][str(number)] = dict(
                teacher=self.labeller(number).key,
                **label_quality(self.data, f'{LABELS}/round_{number}'),
            )

        needs = tuple(f'train {key}' for key in after)
        images = dict(zip(SPLITS, self.args.images))
        cost = 8 + 0.15 * (images[EXTRA] + images['val'])
        return self._job(f'label {number}', command, needs, cost, finish)

    def _report(self, number: int) -> Job:
        def command():
            program = [sys.executable, TOOLS / 'autolabel_report.py']
            program += [self.labels(number)]
            program += ['--config', self.config(self.labeller(number).key)]
            program += ['--check', 'config:val_dataloader']
            program += ['--coarse', 'config:coarse_dataloader']
            program += ['--prior', 'config:fine_dataloader']
            # Few images: they are read before workers have started.
            return [*program, '--workers', 0]

        return self._job(f'report {number}', command, (f'label {number}',), 10)

    def _test(self, recipe: Recipe) -> Job:
        work_dir = self.root / 'tests' / recipe.key
        predictions = self.predictions(recipe.key)

        def command():
            for folder in (work_dir, predictions):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            program = [sys.executable, mmseg_tools() / 'test.py']
            program += [self.config(recipe.key), self.checkpoint(recipe.key)]
            return [*program, '--work-dir', work_dir, '--out', predictions]

        def finish():
            (result,) = work_dir.glob('*/*.json')
            self.state['test'][recipe.key] = score(
                self.data, predictions, json.loads(result.read_text())
            )

        needs = (f'train {recipe.key}',)
        images = dict(zip(SPLITS, self.args.images))
        cost = 8 + 0.12 * images['test']
        return self._job(f'test {recipe.key}', command, needs, cost, finish)
