"""Rounds of labels, a split to check the teacher on, and the report."""

import json
from functools import partial

import numpy as np
import pytest
from autolabelling import running
from PIL import Image

from hmsa_mmseg.autolabel.meta import read_meta
from hmsa_mmseg.reports import ReportOptions

pytestmark = pytest.mark.usefixtures('quick')


def test_rounds(run, teacher, tmp_path, tree, images):
    """Each in a folder of its own, which refers to the one before."""
    said = run('--round', '2', code=1)
    assert 'expected them in' in said
    run('--round', '1', '--shard', '0/2')
    said = run('--round', '2', code=1)
    assert '2 images are not labelled' in said
    run('--round', '1')
    out = tmp_path / 'out'
    assert read_meta(out / 'round_1')['previous'] is None
    run('--round', '2', '--scales', '0.5,1')
    second = read_meta(out / 'round_2')
    assert (second['round'], second['previous']['folder']) == (2, '../round_1')
    assert sorted(path.name for path in out.iterdir()) == [
        *('round_1', 'round_2')
    ]
    # Another first round is another teacher of the second.
    run('--round', '1', '--scales', '1', '--overwrite')
    said = run('--round', '2', '--scales', '0.5,1', code=1)
    assert 'previous.identity was' in said
    # Rounds are no images, wherever they are.
    run(out='images/out', source=images)
    assert len(tree(images / 'out')) == 14


def test_images_that_failed_are_no_obstacle(run, tmp_path, images):
    (images / 'top.png').write_bytes(b'')
    run('--round', '1', code=1)
    run('--round', '2', code=1)
    assert read_meta(tmp_path / 'out/round_2')['round'] == 2


@pytest.fixture
def config(teacher, tmp_path, save):
    """A config with a labelled split of two images."""
    root = tmp_path / 'data'
    for k in range(2):
        name = f'aachen_{k:06d}_000019'
        folder = 'val/aachen'
        save(root / f'leftImg8bit/{folder}/{name}_leftImg8bit.png', k)
        label = root / f'gtFine/{folder}/{name}_gtFine_labelTrainIds.png'
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 64), k, np.uint8)).save(label)
    path = tmp_path / 'config.py'
    path.write_text(
        f'_base_ = {str(teacher.config)!r}\n'
        f'val_dataloader = dict(dataset=dict(data_root={str(root)!r}))\n'
    )
    return path


def test_check_and_report(run, config, tmp_path, monkeypatch, lines):
    """The split is labelled beside the images, and the report has scores."""
    # Processes that read are more than a few images need.
    options = partial(ReportOptions, workers=0, shows_progress=False)
    monkeypatch.setattr(running, 'ReportOptions', options)
    said = run(
        *('--check', 'config:val_dataloader', '--threshold', '0.3'),
        config=config,
        report=True,
    )
    out = tmp_path / 'out'
    assert f'report: {out / "report.html"}' in said
    assert [line['name'] for line in lines(out / 'check/manifest.jsonl')] == [
        f'aachen/aachen_00000{k}_000019_leftImg8bit' for k in range(2)
    ]
    meta = read_meta(out / 'check')
    assert meta['images'] == dict(source='config:val_dataloader', count=2)
    assert meta['teacher'] == read_meta(out)['teacher']
    report = json.loads((out / 'report.json').read_text())
    assert report['threshold'] == 0.3
    assert report['check'] is not None
    assert len(lines(out / 'manifest.jsonl')) == 5


def test_shards_of_a_check(run, config, tmp_path, tree):
    """Each labels its share of both; all is listed in the end."""
    check = '--check', 'config:val_dataloader'
    run(*check, config=config, out='whole')
    run(*check, '--shard', '1/2', config=config)
    said = run(*check, '--merge', config=config, code=1)
    assert '1 images are not labelled: aachen/aachen_000000' in said
    run(*check, '--shard', '0/2', config=config)
    run(*check, '--merge', config=config)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')


def test_nothing_to_merge(run, tmp_path):
    said = run('--merge', code=1)
    assert f'{tmp_path}/out/autolabel_meta.json: there is no such file' in said
    run('--limit', '1')
    said = run('--merge', '--check', 'config:val_dataloader', code=1)
    assert 'out/check/autolabel_meta.json: there is no such file' in said
    assert not (tmp_path / 'out/check').exists()


def test_teacher_saw(run, config, tmp_path):
    """What the checkpoint does not tell."""
    run('--teacher-saw', 'config:val_dataloader', config=config)
    out = tmp_path / 'out'
    found = read_meta(out)['trained_on']
    assert [s['images'] for s in found if s['source'] == 'declared'] == [2]
    seen = (out / 'teacher_images.txt').read_text()
    assert seen.count('aachen_000001_000019_leftImg8bit') == 1


def test_a_threshold_that_makes_no_sense(run, tmp_path):
    assert 'threshold=1.5' in run('--threshold', '1.5', code=1)
    assert not (tmp_path / 'out').exists()


def test_where_the_time_went(run, tmp_path):
    said = run('--timing', tmp_path / 'timing.json')
    found = json.loads((tmp_path / 'timing.json').read_text())
    seconds = found['seconds']
    assert found['images'] == 5
    parts = seconds['model'] + seconds['reading'] + seconds['writing']
    assert 0 < parts <= seconds['total']
    share = 1 - seconds['model'] / seconds['total']
    assert found['outside_model'] == pytest.approx(share)
    assert f'time outside the model: {100 * share:.1f} %' in said


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (['--device', 'moon'], '--device moon'),
        (['--scales', '1,1'], 'model.test_cfg.scales'),
        (
            [
                *('--label-format', 'labelIds', '--cfg-options'),
                'test_dataloader.dataset.type=BaseSegDataset',
                'test_dataloader.dataset.metainfo.classes='
                + ','.join('abcdefghijklmnopqrs'),
            ],
            '--label-format labelIds',
        ),
        (['--check', 'config:none'], 'none.dataset is missing'),
        (['--check', '.'], '--check .: expected a data set of the config'),
    ],
)
def test_options_that_make_no_sense(run, tmp_path, options, named):
    assert named in run(*options, code=1)
    assert not (tmp_path / 'out').exists()
