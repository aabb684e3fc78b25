"""tools/dev/run_camvid.py: what of its runs stands in the report."""

import json
from pathlib import Path

import pytest
from PIL import Image

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


@pytest.fixture
def tool(load_tool, monkeypatch):
    """The tool, which finds its modules in its own folder."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'tools' / 'dev')
    return load_tool('dev/run_camvid.py')


@pytest.fixture
def root(tmp_path):
    """Two seeds of the single scale, one of attention alone, two classes."""
    for seed in (0, 1):
        write(tmp_path / f'single-{seed}', seed, SINGLE)
        write(tmp_path / f'finetuned-{seed}', seed, SINGLE)
    write(tmp_path / 'attention-1', 1, ATTENTION)
    (tmp_path / 'hierarchical-0').mkdir()
    return tmp_path


def write(folder, seed, rows):
    folder.mkdir()
    rows = {
        name: dict(mIoU=value[seed], IoU=[value[seed] - 1, value[seed] + 1])
        for name, value in rows.items()
    }
    weights = {'blend 0.5/1/2': [[0.2, 0.1], [0.3, 0.2], [0.5, 0.7]]}
    content = dict(classes=['sky', 'road'], rows=rows, weights=weights)
    (folder / 'test.json').write_text(json.dumps(content))
    (folder / 'seconds.json').write_text('12.5')


def test_report(tool, root, tmp_path):
    starts = dict(single=None, finetuned='single', attention='finetuned')
    written = tool.write_report(root, tmp_path / 'out', starts)
    files = {path.name: path for path in written}
    assert files.keys() == {'results.md', 'results.json', 'test.png'}
    text = files['results.md'].read_text()
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
    assert 'hierarchical' not in results
    with Image.open(files['test.png']) as image:
        assert min(image.size) > 100


def test_jobs_name_configs_and_lines_their_rows(tool):
    known = {
        (key, str(Row(*row)))
        for key, job in tool.JOBS.items()
        for row in job.rows
    }
    lines = tool.write_report.__globals__['LINES']
    assert {line[:2] for line in lines} <= known
    for job in tool.JOBS.values():
        assert (tool.CONFIGS / job.train).is_file()
        assert (tool.CONFIGS / job.test).is_file()
        assert job.start in (None, *tool.JOBS)
