"""The experiment on CamVid: its jobs, and what stands in the report."""

import json

import run
from camvid.experiment import MODELS, plan
from camvid.report import LINES, report

from hmsa_mmseg.analysis.scale_scores import Row

SINGLE = {
    'logits 0.25': (40.0, 40.0),
    'logits 0.5': (44.0, 46.0),
    'logits 1': (50.0, 60.0),
    'logits 2': (50.0, 50.0),
    'probs 0.5/1/2': (52.0, 61.0),
}
ATTENTION = {
    'blend 0.5/1/2': (54.0, 66.0),
    'blend 0.25/0.5/1/2': (54.0, 66.5),
}


def scores(seed, rows):
    rows = {
        name: dict(mIoU=value[seed], IoU=[value[seed] - 1, value[seed] + 1])
        for name, value in rows.items()
    }
    weights = {'blend 0.5/1/2': [[0.2, 0.1], [0.3, 0.2], [0.5, 0.7]]}
    return dict(classes=['sky', 'road'], rows=rows, weights=weights)


def planned(tmp_path, *options):
    command = ['camvid', '--work-dir', str(tmp_path), *options]
    args = run.parse_args(command)
    return args, plan(args)


def test_report(tmp_path):
    """Two seeds of the single scale, one of attention alone."""
    args, runs = planned(tmp_path, '--seeds', '0', '1')
    for seed, one in enumerate(runs):
        for key in ('single', 'finetuned', 'attention'):
            if key != 'attention' or seed == 1:
                rows = ATTENTION if key == 'attention' else SINGLE
                found = dict(result=scores(seed, rows), done=True)
                one.note(f'score {key} on test', 1, 1, **found)
                one.note(f'train {key}', 20, 12.5, done=True)
    # Stopped: no part of what training takes.
    runs[0].note('train explicit', 20, 12.5)
    shown, written = report(args, runs)
    files = {path.name: path for path in written}
    assert files.keys() == {'results.md', 'results.json', 'test.png'}
    text = files['results.md'].read_text()
    assert shown in text
    for line in (
        '| single scale | 55.0 (50.0 to 60.0) | 0.0 (0.0 to 0.0) | 2 |',
        # Against the fine-tuned single scale of the same seed.
        '| attention alone on it, 0.5/1/2 | 66.0 | 6.0 | 1 |',
        '| attention alone on fine-tuned: 0.25 added | - | +0.5 | +0.5 |',
        '| single | 40.0 | 45.0 | 55.0 | 50.0 |',
        '| attention | 12 | 38 | 1.50 |',
        '| sky | 54.0 | 54.0 | 55.5 | 65.0 |',
        '| road | 10 | 20 | 70 |',
    ):
        assert line in text.splitlines()
    results = json.loads(files['results.json'].read_text())
    assert results['single']['0']['seconds'] == 12.5
    assert 'explicit' not in results


def test_lines_of_the_report_are_scored():
    known = {
        (key, str(Row(*row)))
        for key, model in MODELS.items()
        for row in model.rows
    }
    assert {line[:2] for line in LINES} <= known


def test_only_what_the_wanted_scores_need(tmp_path):
    options = ('--seeds', '0', '--jobs', 'attention', '--splits', 'val')
    _, (one,) = planned(tmp_path, *options)
    chain = ['single', 'finetuned', 'attention']
    names = [f'train {key}' for key in chain]
    pending = [job.name for job in one.pending()]
    assert sorted(pending) == sorted([*names, 'score attention on val'])
    command = [str(p) for p in one.jobs['train attention'].command()]
    assert f'load_from={one.root}/finetuned/iter_400.pth' in command
    assert 'val_cfg=None' in command
    # Scored, it needs no model any more.
    job = one.jobs['score attention on val']
    job.makes.parent.mkdir()
    job.makes.touch()
    one.note(job.name, 1, 1, done=True)
    assert one.pending() == []
    _, (one,) = planned(tmp_path, *options[:-1])
    assert [job.name for job in one.pending()] == names
