"""The demo, as small as it gets: the driver from scenes to page."""

import json

import numpy as np
import pytest
import run
from demo.experiment import METHODS, MODELS, plan
from driver.labels import dataset, mean_rows, score
from mmengine.config import Config
from PIL import Image

NUM_JOBS = 1 + len(MODELS) + len(METHODS) + 1  # scenes, ..., page
ARGUMENTS = ('--iters', 4, '--images', 4, 1, 2, '--parallel', 2)


@pytest.fixture(scope='module')
def demo(tmp_path_factory, start):
    """Run the demo, interrupted twice; returns its folder."""
    out = tmp_path_factory.mktemp('demo')
    command = ('demo', '--work-dir', out, *ARGUMENTS)
    for stop_at in ('hmsa_r18s1', '--tta'):
        with pytest.raises(KeyboardInterrupt):
            start(*command, stop_at=stop_at)
    state = json.loads((out / 'seed0' / 'state.json').read_text())
    before = sum(noted['done'] for noted in state['jobs'].values())
    # What had begun when it was stopped may be begun again.
    assert len(start(*command)) == NUM_JOBS - before < NUM_JOBS - 2
    return out


def test_table_and_page(demo, start, capsys):
    results = json.loads((demo / 'results.json').read_text())
    # A finished demo starts nothing.
    assert start('demo', '--work-dir', demo, *ARGUMENTS) == []
    assert json.loads((demo / 'results.json').read_text()) == results
    printed = capsys.readouterr().out
    miou = results['mean']['hier-3']['mIoU']
    assert f'| Hierarchical 0.5/1/2 | {miou:.1f} |' in printed
    rows = results['seeds']['0']
    assert [*rows] == [method.key for method in METHODS]
    for row in rows.values():
        valid = [value for value in row['IoU'].values() if value is not None]
        assert row['mIoU'] == pytest.approx(sum(valid) / len(valid), abs=0.02)
    assert results['mean'] == rows
    page = (demo / 'attention.html').read_text(encoding='utf-8')
    for image in (demo / 'seed0/data').glob('*/leftImg8bit/test/*/*.png'):
        assert image.stem in page
    for name in ('predictions', 'attention'):
        sheet = np.array(Image.open(demo / f'pictures/{name}.png'))
        assert sheet.shape[0] > 2 * 128
    # A score that the predictions do not have.
    truth = dataset(
        MODELS['single'], 'test_dataloader', demo / 'seed0', pack=True
    )
    with pytest.raises(SystemExit, match='reports mIoU'):
        score(truth, demo / 'seed0/predictions/single', dict(mIoU=99))


def test_scales_and_averaging_reach_the_tools(tmp_path):
    (only,) = plan(run.parse_args(['demo', '--work-dir', str(tmp_path)]))
    option = 'model.test_cfg.scales='
    found = {}
    for method in METHODS:
        command = map(str, only.jobs[f'test {method.key}'].command())
        found[method.key] = [
            part for part in command if part == '--tta' or option in part
        ]
    assert found == {
        'single': [],
        'averaged': ['--tta'],
        'hier-2': [f'{option}(0.5,1.0)'],
        'hier-3': [f'{option}(0.5,1.0,2.0)'],
        'hier-4': [f'{option}(0.25,0.5,1.0,2.0)'],
    }


def test_mean_over_seeds():
    rows = [
        {'a': {'mIoU': value, 'IoU': {'road': value, 'car': car}}}
        for value, car in ((50.0, None), (60.0, 30.0))
    ]
    iou = {'road': 55.0, 'car': 30.0}
    assert mean_rows(rows)['a'] == {'mIoU': 55.0, 'IoU': iou}


def test_models_differ_in_the_method_alone():
    single, hierarchical = (
        Config.fromfile(path).to_dict() for path in MODELS.values()
    )
    for cfg in (single, hierarchical):
        cfg.pop('tta_pipeline')
    ours, stock = hierarchical.pop('model'), single.pop('model')
    assert hierarchical == single
    head = ours.pop('decode_head')
    assert head['seg_head'] == stock.pop('decode_head')
    differ = {key for key in stock if ours[key] != stock[key]}
    assert differ == {'type', 'train_cfg', 'test_cfg'}
