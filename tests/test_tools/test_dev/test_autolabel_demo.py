"""The loop of auto-labelling: all of it as small as it gets, and its words."""

import json
import re

import pytest
from autolabel_demo import report
from autolabel_demo.experiment import RECIPES, STUDENTS, TEACHER
from mmengine.config import Config

KEYS = [recipe.key for recipe in RECIPES]
NUM_JOBS = 1 + 2 * len(KEYS) + 2 * 2  # scenes, train, test, label, report
ARGUMENTS = [
    *('--iters', 2, 1, '--images', 2, 1, 2, 3, '--seeds', 0, '--parallel', 2),
]


@pytest.fixture(scope='module')
def demo(tmp_path_factory, start):
    """Run the demo, interrupted once; returns its folder."""
    out = tmp_path_factory.mktemp('demo')
    command = ('autolabel', '--work-dir', out, *ARGUMENTS)
    with pytest.raises(KeyboardInterrupt):
        start(*command, stop_at='--round 2')
    state = json.loads((out / 'seed0' / 'state.json').read_text())
    done = sum(noted['done'] for noted in state['jobs'].values())
    assert 0 < done < NUM_JOBS
    assert len(start(*command)) == NUM_JOBS - done
    assert start(*command) == []
    return out


def parts_of(demo, key):
    """Data sets that a model has learned from."""
    (path,) = (demo / 'seed0' / key).glob('*.py')
    dataset = Config.fromfile(path).train_dataloader.dataset
    if 'datasets' not in dataset:
        return [dataset]
    repeated, other = dataset.datasets
    return [repeated.dataset, other]


@pytest.mark.slow
def test_all_of_the_loop(demo):
    results = json.loads((demo / 'results.json').read_text())
    assert [row['key'] for row in results['rows']] == KEYS
    seed = results['seeds']['0']
    fine = results['rows'][1]['test']
    for row in results['rows']:
        (value,) = row['test']
        assert value == seed['test'][row['key']]['mIoU']
        assert row['above_fine'] == [round(value - fine[0], 2)]
        # Students are not scored on what the teacher saw.
        seen = seed['test'][row['key']].get('teacher_saw_images')
        assert seen == (0 if row['key'].startswith('student') else None)
    # What each learns from: never what is validated or tested.
    parts = {key: parts_of(demo, key) for key in KEYS}
    for part in [part for of in parts.values() for part in of]:
        assert not re.search('val|test', part.data_prefix.img_path)
    assert {
        key: [part.data_prefix.seg_map_path for part in of]
        for key, of in parts.items()
    } == {
        'start': ['gtFine/train'],
        'fine': ['gtFine/train'],
        'teacher': ['gtFine/train', 'gtCoarse/train_extra'],
        'student-0.5': ['gtFine/train', 'autolabels/round_1'],
        'student-0.9': ['gtFine/train', 'autolabels/round_1'],
        'student-2': ['gtFine/train', 'autolabels/round_2'],
        'all-true': ['gtFine/train', 'gtTrue/train_extra'],
    }
    better = max(STUDENTS, key=lambda r: seed['val'][r.key])
    assert seed['second'] == better.key
    for key, like in (
        ('student-0.5', 'student-0.5'),
        ('student-0.9', 'student-0.9'),
        ('student-2', better.key),
    ):
        pipeline = parts[key][1].pipeline
        (step,) = [s for s in pipeline if s.type == 'ApplyConfidence']
        assert step.threshold == float(like.partition('-')[2])
    labels = demo / 'seed0/data/street_scenes_autolabel/autolabels'
    for number, teacher in ((1, TEACHER), (2, better)):
        folder = labels / f'round_{number}'
        meta = json.loads((folder / 'autolabel_meta.json').read_text())
        assert meta['round'] == number
        assert meta['teacher']['config'] == teacher.path.name
        lines = (folder / 'manifest.jsonl').read_text()
        assert len(lines.splitlines()) == 3
        assert (folder / 'check' / 'manifest.jsonl').exists()
    # The page holds its pictures, and links to the reports.
    page = (demo / 'index.html').read_text(encoding='utf-8')
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3 * 11  # image, polygons, truth; 4 of each round
    assert all(s.startswith('data:image/png;base64,') for s in sources)
    assert not re.search(r'https?:|<script|<link', page)
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 2
    assert all((demo / link).is_file() for link in links)


def results_of(better):
    fine = [50.0, 54.0, 52.0]
    values = [a + b for a, b in zip(fine, better)]
    rows = []
    for recipe in RECIPES:
        is_first = recipe.key in ('start', 'fine')
        found, above = (fine, [0.0] * 3) if is_first else (values, better)
        scores = dict(val=found, test=found, above_fine=above)
        rows.append(
            dict(key=recipe.key, title=recipe.title, labels='some', **scores)
        )
    seeds = {
        seed: dict(
            second='student-0.5',
            test={recipe.key: dict(mIoU=value) for recipe in RECIPES},
        )
        for seed, value in enumerate(values)
    }
    images = dict(test=60)
    return dict(rows=rows, iters=[7, 3], images=images, seeds=seeds)


def test_findings_and_table_say_what_the_numbers_say():
    results = results_of([-1, 2, -4])
    texts = report.findings(results)
    assert len(texts) == len(RECIPES) - 1
    for text in texts[:-1]:
        assert '-1.0 (-4.0 to +2.0)' in text
        assert 'better in 1 of 3 seeds' in text
    # As good as the students.
    assert texts[-1].endswith(': +0.0 (+0.0 to +0.0).')
    _, rows = report.table(results)
    start, fine, teacher, *_ = rows
    assert start[2] == '7'
    assert fine[2:] == ['7 + 3', *['52.0 (50.0 to 54.0)'] * 2, '']
    assert teacher[-1] == '-1.0 (-4.0 to +2.0)'
