"""The experiment on CamVid: its jobs, and what stands in the report."""

import json
from pathlib import Path

import run
from camvid.experiment import MODELS, SPLITS, plan
from camvid.report import LINES, report

from hmsa_mmseg.analysis.scale_scores import Row

DOCS = Path(__file__).parents[3] / 'docs/camvid'


def planned(tmp_path, *options):
    command = ['camvid', '--work-dir', str(tmp_path), *options]
    args = run.parse_args(command)
    return args, plan(args)


def test_report(tmp_path):
    """Of runs with the committed results: the committed page."""
    results = json.loads((DOCS / 'results.json').read_text())
    seeds = sorted(results['single'])
    args, runs = planned(tmp_path, '--seeds', *seeds)
    for key, found in results.items():
        for seed, scores in found.items():
            one = runs[seeds.index(seed)]
            for split in {*SPLITS} & {*scores}:
                noted = dict(result=scores[split], done=True)
                one.note(f'score {key} on {split}', 1, 1, **noted)
            if 'seconds' in scores:
                one.note(f'train {key}', 20, scores['seconds'], done=True)
    shown, written = report(args, runs)
    files = {path.name: path for path in written}
    assert json.loads(files['results.json'].read_text()) == results
    text = files['results.md'].read_text()
    assert shown in text
    assert text == (DOCS / 'results.md').read_text()
    assert files['test.png'].is_file()
    # Of every line a score is made.
    scored = {
        (key, str(Row(*row)))
        for key, model in MODELS.items()
        for row in model.rows
    }
    assert {line[:2] for line in LINES} <= scored


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
