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


@pytest.fixture
def results(demo):
    return json.loads((demo / 'results.json').read_text())


def config_of(demo, key):
    (path,) = (demo / 'seed0' / key).glob('*.py')
    return Config.fromfile(path)


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_each_learns_from(demo, results):
    sources = {}
    for key in KEYS:
        dataset = config_of(demo, key).train_dataloader.dataset
        parts = [dataset]
        if 'datasets' in dataset:
            repeated, other = dataset.datasets
            parts = [repeated.dataset, other]
        # mmseg's train.py adds the root to the folders.
        assert {part.data_root for part in parts} == {
            'data/street_scenes_autolabel/'
        }
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
    better = max(
        ('0.5', '0.9'),
        key=lambda t: results['seeds']['0']['val'][f'student-{t}'],
    )
    for key, threshold in (
        ('student-0.5', 0.5),
        ('student-0.9', 0.9),
        ('student-2', float(better)),
    ):
        pipeline = (
            config_of(demo, key).train_dataloader.dataset.datasets[1].pipeline
        )
        (step,) = [s for s in pipeline if s.type == 'ApplyConfidence']
        assert step.threshold == threshold


@pytest.mark.slow
def test_rounds(demo, results):
    labels = demo / 'seed0/data/street_scenes_autolabel/autolabels'
    first, second = (
        json.loads((labels / f'round_{k}' / 'autolabel_meta.json').read_text())
        for k in (1, 2)
    )
    better = max(STUDENTS, key=lambda r: results['seeds']['0']['val'][r.key])
    assert results['seeds']['0']['second'] == better.key
    assert better.path.name == second['teacher']['config']
    assert first['teacher']['config'] == TEACHER.path.name
    assert second['previous'] is not None
    assert [first['round'], second['round']] == [1, 2]
    for k in (1, 2):
        lines = (labels / f'round_{k}' / 'manifest.jsonl').read_text()
        assert len(lines.splitlines()) == 3
        assert (labels / f'round_{k}' / 'check' / 'manifest.jsonl').exists()


@pytest.mark.slow
def test_students_are_not_scored_on_what_the_teacher_saw(results):
    test = results['seeds']['0']['test']
    for key in KEYS:
        is_student = key.startswith('student')
        assert ('teacher_saw_images' in test[key]) == is_student
        assert test[key].get('teacher_saw_images', 0) == 0


@pytest.mark.slow
def test_page_stands_alone_and_its_links_work(demo, results):
    page = (demo / 'index.html').read_text(encoding='utf-8')
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3 * 11  # image, polygons, truth; 4 of each round
    assert all(s.startswith('data:image/png;base64,') for s in sources)
    assert not re.search(
        r'https?:|//|<script|<link|url\(|@import',
        re.sub(r'src="[^"]*"', '', page),
    )
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 2
    assert all((demo / link).is_file() for link in links)
    for row in results['rows']:
        assert page.count(row['title']) > 1
        assert f'{row["test"]["mean"]:.1f}' in page


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


@pytest.mark.parametrize(
    ('better', 'change', 'seeds'),
    [
        ([1, 2, 3], '+2.0 (+1.0 to +3.0)', 'better in 3 of 3 seeds'),
        ([-1, 2, -4], '-1.0 (-4.0 to +2.0)', 'better in 1 of 3 seeds'),
    ],
)
def test_findings_say_what_the_numbers_say(better, change, seeds):
    texts = report.findings(results_of(better))
    assert len(texts) == len(RECIPES) - 1
    for text in texts[:-1]:
        assert change in text
        assert seeds in text
    # As good as the students.
    assert texts[-1].endswith(': +0.0 (+0.0 to +0.0).')


def test_table():
    _, rows = report.table(results_of([1, 2, 3]))
    start, fine, teacher, *_ = rows
    assert start[2] == '7'
    assert fine[2:] == ['7 + 3', *['52.0 (50.0 to 54.0)'] * 2, '']
    assert teacher[-1] == '+2.0 (+1.0 to +3.0)'
