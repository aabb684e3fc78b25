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


def config_of(demo, key):
    (path,) = (demo / 'seed0' / key).glob('*.py')
    return Config.fromfile(path)


def check_sources(demo):
    """What each learns from: never what is validated or tested."""
    sources = {}
    for key in KEYS:
        dataset = config_of(demo, key).train_dataloader.dataset
        parts = [dataset]
        if 'datasets' in dataset:
            repeated, other = dataset.datasets
            parts = [repeated.dataset, other]
        sources[key] = [part.data_prefix.seg_map_path for part in parts]
        for part in parts:
            assert not re.search('val|test', part.data_prefix.img_path)
    assert sources == {
        'start': ['gtFine/train'],
        'fine': ['gtFine/train'],
        'teacher': ['gtFine/train', 'gtCoarse/train_extra'],
        'student-0.5': ['gtFine/train', 'autolabels/round_1'],
        'student-0.9': ['gtFine/train', 'autolabels/round_1'],
        'student-2': ['gtFine/train', 'autolabels/round_2'],
        'all-true': ['gtFine/train', 'gtTrue/train_extra'],
    }


@pytest.mark.slow
def test_all_of_the_loop(demo):
    results = json.loads((demo / 'results.json').read_text())
    assert [row['key'] for row in results['rows']] == KEYS
    seed = results['seeds']['0']
    fine = results['rows'][1]['test']['values']
    for row in results['rows']:
        (value,) = row['test']['values']
        assert value == seed['test'][row['key']]['mIoU']
        assert row['above_fine']['values'] == [round(value - fine[0], 2)]
        # Students are not scored on what the teacher saw.
        seen = seed['test'][row['key']].get('teacher_saw_images')
        assert seen == (0 if row['key'].startswith('student') else None)
    check_sources(demo)
    better = max(STUDENTS, key=lambda r: seed['val'][r.key])
    assert seed['second'] == better.key
    for key, threshold in (
        ('student-0.5', 0.5),
        ('student-0.9', 0.9),
        ('student-2', float(better.key.partition('-')[2])),
    ):
        parts = config_of(demo, key).train_dataloader.dataset.datasets
        (step,) = [s for s in parts[1].pipeline if s.type == 'ApplyConfidence']
        assert step.threshold == threshold
    labels = demo / 'seed0/data/street_scenes_autolabel/autolabels'
    for number, teacher in ((1, TEACHER), (2, better)):
        folder = labels / f'round_{number}'
        meta = json.loads((folder / 'autolabel_meta.json').read_text())
        assert meta['round'] == number
        assert meta['teacher']['config'] == teacher.path.name
        lines = (folder / 'manifest.jsonl').read_text()
        assert len(lines.splitlines()) == 3
        assert (folder / 'check' / 'manifest.jsonl').exists()
    page = (demo / 'index.html').read_text(encoding='utf-8')
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3 * 11  # image, polygons, truth; 4 of each round
    assert all(s.startswith('data:image/png;base64,') for s in sources)
    page = re.sub(r'src="[^"]*"', '', page)
    assert not re.search(r'https?:|//|<script|<link|url\(|@import', page)
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 2
    assert all((demo / link).is_file() for link in links)


def row(key, values, fine=None):
    fine = fine or values
    return dict(
        key=key,
        title=key.title(),
        labels='some',
        val=report.spread(values),
        test=report.spread(values),
        above_fine=report.spread([a - b for a, b in zip(values, fine)]),
    )


def results_of(better):
    fine = [50.0, 54.0, 52.0]
    rows = [row('start', fine), row('fine', fine)]
    values = [a + b for a, b in zip(fine, better)]
    rows += [row(recipe.key, values, fine) for recipe in RECIPES[2:]]
    seeds = {
        seed: dict(
            second='student-0.5',
            test={each['key']: dict(mIoU=value) for each in rows[2:]},
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
