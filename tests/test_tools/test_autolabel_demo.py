"""The loop of auto-labelling, from scenes to page, as small as it gets."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

HERE = Path(__file__).parent
# The tools are scripts, which find each other in their own folder.
sys.path.insert(0, str(HERE.parents[1] / 'tools' / 'dev'))
sys.path.insert(0, str(HERE))

from autolabel_demo import jobs, recipes, run_demo  # noqa: E402
from forked_tools import ForkedProgram  # noqa: E402

KEYS = [recipe.key for recipe in recipes.RECIPES]
NUM_JOBS = 1 + 2 * len(KEYS) + 2 * 2  # data, train, test, label, report
ARGUMENTS = [
    *('--iters', '2', '1', '--images', '2', '1', '2', '3', '--seeds', '0'),
    *('--jobs', '2'),
]


def run(out, stop_at=None):
    """Run the demo; returns what it started, as far as it came.

    Args:
        out (Path): Folder of the demo.
        stop_at (str): The demo is interrupted when it starts this program.
    """
    started = []

    class Program(ForkedProgram):
        def __init__(self, command, **options):
            name = ' '.join(map(str, command[1:]))
            started.append(name)
            if stop_at and stop_at in name:
                raise KeyboardInterrupt
            super().__init__(command, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.subprocess, 'Popen', Program)
        patch.setattr(jobs, 'PAUSE', 0.02)
        run_demo.main(['--out', str(out), *ARGUMENTS])
    return started


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Run the demo, interrupted once; returns folder and programs."""
    out = tmp_path_factory.mktemp('demo')
    with pytest.raises(KeyboardInterrupt):
        run(out, stop_at='--round 2')
    state = json.loads((out / 'seed0' / 'state.json').read_text())
    assert 0 < len(state['done']) < NUM_JOBS
    return out, [*state['done']], run(out)


@pytest.fixture
def results(demo):
    out, *_ = demo
    return json.loads((out / 'results.json').read_text())


@pytest.fixture
def state(demo):
    out, *_ = demo
    return json.loads((out / 'seed0' / 'state.json').read_text())


def config_of(out, key):
    (path,) = (out / 'seed0' / key).glob('*.py')
    return Config.fromfile(path)


def test_an_interrupted_run_goes_on(demo, state):
    _, before, started = demo
    assert len(state['done']) == len({*state['done']}) == NUM_JOBS
    assert state['done'][: len(before)] == before
    assert len(started) == NUM_JOBS - len(before)


def test_a_finished_run_starts_nothing(demo, state, results):
    out, *_ = demo
    assert run(out) == []
    again = json.loads((out / 'results.json').read_text())
    assert again == results


def test_what_is_lost_is_made_again(demo, results):
    out, *_ = demo
    folder = out / 'seed0' / 'predictions' / 'fine'
    folder.rename(folder.with_name('elsewhere'))
    (started,) = run(out)
    assert 'test.py' in started
    assert 'autolabel-fine' in started
    again = json.loads((out / 'results.json').read_text())
    assert again['rows'] == results['rows']


def test_rows(results):
    assert [row['key'] for row in results['rows']] == KEYS
    fine = results['rows'][1]['test']['values']
    for row in results['rows']:
        found = results['seeds']['0']['test'][row['key']]
        (value,) = row['test']['values']
        assert value == found['mIoU']
        valid = [v for v in found['IoU'].values() if v is not None]
        assert value == pytest.approx(sum(valid) / len(valid), abs=0.02)
        assert row['above_fine']['values'] == [round(value - fine[0], 2)]
        assert row['val']['values'] == [
            results['seeds']['0']['val'][row['key']]
        ]


def test_only_the_labels_differ(demo):
    out, *_ = demo
    configs = {key: config_of(out, key).to_dict() for key in KEYS}
    start = configs.pop('start')
    for cfg in configs.values():
        for key in ('work_dir', 'train_dataloader', 'custom_hooks'):
            cfg.pop(key, None)
        for key in ('autolabel_dataset', 'autolabel_pipeline'):
            cfg.pop(key, None)
        # How it came to its end.
        loaded, resumed = cfg.pop('load_from'), cfg.pop('resume')
        assert resumed or loaded == str(out / 'seed0/start/iter_2.pth')
    assert all(cfg == configs['fine'] for cfg in configs.values())
    assert configs['fine']['train_cfg']['max_iters'] == 1
    assert start['train_cfg']['max_iters'] == 2
    assert start['load_from'] is None
    assert start['model'] == configs['fine']['model']


def test_what_each_learns_from(demo, state):
    out, *_ = demo
    data = str(out / 'seed0' / 'data')
    sources = {}
    for key in KEYS:
        dataset = config_of(out, key).train_dataloader.dataset
        parts = [dataset]
        if 'datasets' in dataset:
            repeated, other = dataset.datasets
            parts = [repeated.dataset, other]
        # mmseg's train.py adds the root to the folders.
        assert {part.data_root for part in parts} == {data}
        sources[key] = [part.data_prefix.seg_map_path for part in parts]
        for part in parts:
            assert 'val' not in part.data_prefix.img_path
            assert 'test' not in part.data_prefix.img_path
    assert sources == {
        'start': ['gtFine/train'],
        'fine': ['gtFine/train'],
        'teacher': ['gtFine/train', 'gtCoarse/train_extra'],
        'student-0.5': ['gtFine/train', 'autolabels/round_1'],
        'student-0.9': ['gtFine/train', 'autolabels/round_1'],
        'student-2': ['gtFine/train', 'autolabels/round_2'],
        'all-true': ['gtFine/train', 'gtTrue/train_extra'],
    }
    better = max(('0.5', '0.9'), key=lambda t: state['val'][f'student-{t}'])
    for key, threshold in (
        ('student-0.5', 0.5),
        ('student-0.9', 0.9),
        ('student-2', float(better)),
    ):
        pipeline = (
            config_of(out, key).train_dataloader.dataset.datasets[1].pipeline
        )
        (step,) = [s for s in pipeline if s.type == 'ApplyConfidence']
        assert step.threshold == threshold


def test_rounds(demo, state, results):
    out, *_ = demo
    labels = out / 'seed0' / 'data' / 'autolabels'
    first, second = (
        json.loads((labels / f'round_{k}' / 'autolabel_meta.json').read_text())
        for k in (1, 2)
    )
    better = max(recipes.STUDENTS, key=lambda r: state['val'][r.key])
    assert results['second'] == {'0': better.key}
    assert better.path.name == second['teacher']['config']
    assert first['teacher']['config'] == recipes.TEACHER.path.name
    assert second['previous'] is not None
    assert [first['round'], second['round']] == [1, 2]
    for k in (1, 2):
        lines = (labels / f'round_{k}' / 'manifest.jsonl').read_text()
        assert len(lines.splitlines()) == 3
        assert (labels / f'round_{k}' / 'check' / 'manifest.jsonl').exists()


def test_students_are_not_scored_on_what_the_teacher_saw(state):
    for key in KEYS:
        is_student = key.startswith('student')
        assert ('teacher_saw_images' in state['test'][key]) == is_student
        assert state['test'][key].get('teacher_saw_images', 0) == 0


def test_quality_of_the_labels(demo, results):
    """The same figures, counted here from the files."""
    out, *_ = demo
    data = out / 'seed0' / 'data'
    names = sorted((data / 'gtTrue').rglob('*_labelTrainIds.png'))
    # Train ids of the nine classes, in the order of the classes.
    train_ids = np.array([0, 2, 3, 5, 7, 8, 10, 13, 14])
    total = kept = right = 0
    for name in names:
        stem = name.name.replace('_gtFine_labelTrainIds.png', '')
        stem = data / 'autolabels/round_1/demoville' / f'{stem}_leftImg8bit'
        truth, label, confidence = (
            np.array(Image.open(path)).astype(int)
            for path in (name, f'{stem}.png', f'{stem}_prob.png')
        )
        valid = truth != 255
        mask = valid & (confidence / 255 >= 0.5)
        total += valid.sum()
        kept += mask.sum()
        right += (train_ids[label] == truth)[mask].sum()
    found = results['labels']['1']
    assert found['coverage']['0.0'] == 1
    assert found['coverage']['0.5'] == pytest.approx(kept / total, abs=1e-4)
    assert found['precision']['0.5'] == pytest.approx(
        right / max(kept, 1), abs=1e-4
    )


def test_page_stands_alone_and_its_links_work(demo, results):
    out, *_ = demo
    page = (out / 'index.html').read_text(encoding='utf-8')
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3 * 11  # image, polygons, truth; 4 of each round
    assert all(s.startswith('data:image/png;base64,') for s in sources)
    assert not re.search(
        r'https?:|//|<script|<link|url\(|@import',
        re.sub(r'src="[^"]*"', '', page),
    )
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 2
    assert all((out / link).is_file() for link in links)
    for row in results['rows']:
        assert page.count(row['title']) > 2
        assert f'{row["test"]["mean"]:.1f}' in page


def test_other_settings_are_refused(demo):
    out, *_ = demo
    with pytest.raises(SystemExit, match='holds a run with other settings'):
        run_demo.main(['--out', str(out), *ARGUMENTS, '--iters', '3', '1'])
