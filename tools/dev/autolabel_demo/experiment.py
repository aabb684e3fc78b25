"""From a teacher to a better student: `make autolabel-demo`.

A few generated scenes have fine labels, many have coarse polygons. Trains a
teacher, labels the many with tools/autolabel.py, trains students on its
labels, lets the better one label again, and compares all of them on a
held-out split with a model that saw the fine labels alone. Writes a table and
an HTML page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scenes
from demo.experiment import seed_run
from driver.commands import CONFIGS, TOOLS, Models, recipe
from driver.jobs import Run
from driver.labels import dataset, score
from PIL import Image

from hmsa_mmseg.datasets.confidence import is_kept
from hmsa_mmseg.utils.confusion import count_confusion, scores

#: Where the configs look for the scenes, and in it for the auto-labels.
DATA = 'data/street_scenes_autolabel'
LABELS = 'autolabels/round_{}'
#: Confidence from which on labels are looked at; 0 keeps everything.
THRESHOLDS = (0.0, 0.5, 0.9)
#: Key of ``TeacherLeakageHook`` in the results of test.py.
LEAKAGE = 'teacher_saw_images'


class Recipe(NamedTuple):
    """One row of the table; ``round`` of the labels it learns from, or 0."""

    key: str
    title: str
    labels: str
    config: str
    round: int = 0

    @property
    def path(self) -> Path:
        """Its config."""
        length = '0.6k' if self.key == 'start' else '0.3k'
        name = f'autolabel-{self.config}_r18s1_fcn_1xb4-{length}'
        return CONFIGS / 'demo' / f'{name}_street-scenes-128x256.py'


OF_TEACHER, OF_STUDENT = "fine, and the teacher's", "fine, and a student's"
#: In place of weights that were trained on other data.
START = Recipe('start', 'Start of all others', 'fine', 'start')
FINE_ONLY = Recipe('fine', 'Fine labels only', 'fine', 'fine')
TEACHER = Recipe('teacher', 'Teacher', 'fine, and coarse polygons', 'teacher')
#: Of round 1, one for each threshold.
STUDENTS = tuple(
    Recipe(f'student-{t}', f'Student, threshold {t}', OF_TEACHER, config, 1)
    for t, config in ((0.5, 'student-t50'), (0.9, 'student-t90'))
)
#: Its config is that of the student that labels for it.
SECOND = Recipe(
    *('student-2', 'Student of the second round', OF_STUDENT),
    *('student-t50', 2),
)
ALL_TRUE = Recipe(
    *('all-true', 'True labels of all images', 'fine, and the true ones'),
    'true',
)
#: The rows of the table: all but the first go on from its weights, by one
#: recipe. They differ in the labels that they see.
RECIPES = (START, FINE_ONLY, TEACHER, *STUDENTS, SECOND, ALL_TRUE)


def better_student(run: Run) -> Recipe:
    """Choose who labels in the second round: by mIoU on the val split."""
    return max(STUDENTS, key=lambda each: run.result(f'train {each.key}'))


def labeller(run: Run, number: int) -> Recipe:
    """Return who labels in a round."""
    return TEACHER if number == 1 else better_student(run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this experiment has beside the common options."""
    parser.set_defaults(work_dir=Path('autolabel_demo_out'), seeds=[0, 1])
    parser.add_argument(
        '--iters',
        type=int,
        nargs=2,
        default=(600, 300),
        metavar=('START', 'OTHERS'),
        help='of the training that all others start from, and of each of them',
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=4,
        default=(10, 40, 60, 160),
        metavar=('FINE', 'VAL', 'TEST', 'UNLABELLED'),
    )


def plan(args: argparse.Namespace) -> list[Run]:
    """List the jobs of each seed."""
    digest = recipe({r.path for r in RECIPES}, Path(scenes.__file__))
    return [_plan(args, seed, digest) for seed in args.seeds]


def _plan(args: argparse.Namespace, seed: int, digest: str) -> Run:
    run = seed_run(args, seed, digest, DATA)
    models = Models(run, seed)
    for each in (START, TEACHER):
        _add_training(run, models, each, args.iters)
    # What others wait for comes first.
    _add_labels(run, models, 1, [TEACHER])
    for each in STUDENTS:
        _add_training(run, models, each, args.iters)
    _add_labels(run, models, 2, STUDENTS)
    for each in (SECOND, FINE_ONLY, ALL_TRUE):
        _add_training(run, models, each, args.iters)
    for number in (1, 2):
        _add_report(run, models, number)
    for each in RECIPES:
        _add_test(run, models, each)
    return run


def config_of(run: Run, each: Recipe) -> Path:
    """Return the config of a recipe; the second student's is chosen."""
    return better_student(run).path if each is SECOND else each.path


def _add_training(run: Run, models: Models, each: Recipe, iters) -> None:
    needs, options = ['scenes'], []
    if each.round:
        needs.append(f'label {each.round}')
        prefix = 'train_dataloader.dataset.datasets.1.data_prefix'
        labels = LABELS.format(each.round)
        options.append(f'{prefix}.seg_map_path={labels}')
    models.train(
        *(each.key, lambda: config_of(run, each), iters[each is not START]),
        start=None if each is START else START.key,
        needs=needs,
        options=options,
        needs_val=True,
    )


def _add_labels(run: Run, models: Models, number: int, after) -> None:
    out = labels_of(run, number)

    def command() -> list:
        teacher = labeller(run, number)
        program = [sys.executable, TOOLS / 'autolabel.py', teacher.path]
        program += [models.checkpoint(teacher.key)]
        program += [f'{DATA}/leftImg8bit/{scenes.SPLITS[-1]}']
        program += [out.parent, '--round', number, '--no-report']
        program += ['--check', 'config:val_dataloader']
        return [*program, '--threads', 1, '--device', 'cpu']

    needs = [f'train {each.key}' for each in after]
    run.add(
        *(f'label {number}', command, out / 'manifest.jsonl', needs),
        finish=lambda: label_quality(run, number),
    )


def _add_report(run: Run, models: Models, number: int) -> None:
    labels = labels_of(run, number)

    def command() -> list:
        program = [sys.executable, TOOLS / 'autolabel_report.py', labels]
        program += ['--config', labeller(run, number).path]
        for name, loader in (
            *(('check', 'val'), ('coarse', 'coarse'), ('prior', 'fine')),
        ):
            program += [f'--{name}', f'config:{loader}_dataloader']
        # Few images: they are read before workers have started.
        return [*program, '--workers', 0]

    needs = [f'label {number}']
    page = labels / 'report.html'
    run.add(f'report {number}', command, page, needs=needs)


def _add_test(run: Run, models: Models, each: Recipe) -> None:
    predictions = run.root / 'predictions' / each.key

    def finish(result: dict) -> dict:
        truth = dataset(each.path, 'test_dataloader', run.root, pack=True)
        row = score(truth, predictions, result)
        return {**row, **{k: result[k] for k in [LEAKAGE] if k in result}}

    # The config that train.py has written: with the student's labels.
    models.test(
        *(each.key, each.key),
        lambda: run.root / each.key / config_of(run, each).name,
        arguments=['--out', predictions],
        folders=[predictions],
        finish=finish,
    )


def labels_of(run: Run, number: int) -> Path:
    """Return the folder of the auto-labels of a round."""
    return run.root / DATA / LABELS.format(number)


class AutoLabel(NamedTuple):
    """What an image was labelled with, all uint8; 255 is ignored.

    The image is (H, W, 3), BGR; the others are (H, W).
    """

    image: np.ndarray
    truth: np.ndarray
    label: np.ndarray
    confidence: np.ndarray


def read_autolabels(run: Run, number: int) -> Iterator[AutoLabel]:
    """Read a round's labels as a student's data set does, and the truth."""
    truth = dataset(ALL_TRUE.path, 'train_dataloader', run.root)
    labels = LABELS.format(number)
    config = STUDENTS[0].path
    found = dataset(config, 'train_dataloader', run.root, labels)
    for true, given in zip(truth, found):
        if given['img_path'] != true['img_path']:
            raise SystemExit(
                f'{given["img_path"]}: expected {true["img_path"]}'
            )
        with Image.open(given['prob_map_path']) as image:
            confidence = np.array(image)
        maps = (true['gt_seg_map'], given['gt_seg_map'], confidence)
        yield AutoLabel(true['img'], *maps)


def label_quality(run: Run, number: int) -> dict:
    """Compare the auto-labels of a round with the truth."""
    matrix = 0
    kept, right = (dict.fromkeys(THRESHOLDS, 0) for _ in range(2))
    for each in read_autolabels(run, number):
        matrix = matrix + count_confusion(each.truth, each.label, 9, 255)
        for threshold in THRESHOLDS:
            mask = (each.truth != 255) & is_kept(threshold)[each.confidence]
            kept[threshold] += int(mask.sum())
            right[threshold] += int((each.label == each.truth)[mask].sum())
    total = int(matrix.sum())
    return dict(
        mIoU=round(float(scores(matrix)['mIoU']), 2),
        coverage={str(t): round(kept[t] / total, 4) for t in THRESHOLDS},
        precision={
            str(t): round(right[t] / max(kept[t], 1), 4) for t in THRESHOLDS
        },
    )
