"""The demo: its scores, its stages, and one tiny run of all of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

DEMO = Path(__file__).parents[2] / 'tools' / 'dev' / 'demo'
# The tools are scripts, which find each other in their own folder.
sys.path.insert(0, str(DEMO))

import methods  # noqa: E402
import run_demo  # noqa: E402
import running  # noqa: E402

CLASSES = [
    *('road', 'building', 'wall', 'pole', 'traffic sign', 'vegetation'),
    *('sky', 'car', 'truck'),
]


def read(path):
    return np.array(Image.open(path))


def test_class_iou():
    true = np.array([[0, 0, 1], [1, 255, 1]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    iou = methods.class_iou([(predicted, true), (true, true)], 3)
    # Class 0: 1 + 2 hits, union 3 + 2; class 1: 2 + 3 hits, union 4 + 3.
    assert iou[:2] == pytest.approx([100 * 3 / 5, 100 * 5 / 7])
    assert np.isnan(iou[2])


def test_class_ids_that_overflow_eight_bits():
    labels = np.full((2, 2), 18, np.uint8)
    assert methods.class_iou([(labels, labels)], 19)[18] == 100


def test_tables():
    first, second = (
        {
            method.key: {'mIoU': value, 'IoU': {'road': value, 'car': None}}
            for method in methods.METHODS
        }
        for value in (50.0, 60.0)
    )
    mean = methods.mean_rows([first, second])
    lines = methods.markdown_table(mean, ['road', 'car']).splitlines()
    assert lines[:3] == [
        '| method | mIoU | road | car |',
        '| :-- | --: | --: | --: |',
        '| Single scale 1 | 55.0 | 55.0 | - |',
    ]
    assert len(lines) == 2 + len(methods.METHODS)


def test_progress_is_read_from_the_log():
    line = (
        '11/22 20:37:21 - mmengine - INFO - Iter(train) [ 240/1000]  '
        'base_lr: 7.8e-02 lr: 7.8e-02  eta: 0:03:46  time: 0.29  '
        'data_time: 0.06  loss: 0.6715  decode.loss_ce: 0.6715'
    )
    match = running.PROGRESS.search(line)
    assert match.group('kind', 'now', 'end', 'eta') == (
        *('train', '240', '1000', '0:03:46'),
    )


class FakeTools:
    """Stands in for mmseg's tools: trains nothing, predicts the truth."""

    def __init__(self):
        self.calls = []
        self.fails_at = None

    def __call__(self, command, log_path, threads, lock):
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(command)
        if Path(command[1]).name == 'train.py':
            assert '--resume' in command
            work_dir = Path(command[command.index('--work-dir') + 1])
            work_dir.mkdir(parents=True, exist_ok=True)
            (work_dir / 'iter_4.pth').touch()
        else:
            self.predict(command)

    def predict(self, command):
        predictions = Path(command[command.index('--out') + 1])
        data = predictions.parents[2] / 'data'
        split = predictions.parent.name
        dataset = methods.load_dataset('single', data, split)
        for info in dataset:
            labels = methods.to_class_ids(read(info['seg_map_path']), dataset)
            name = Path(info['img_path']).name
            Image.fromarray(labels % 255).save(predictions / name)
        is_shown = predictions.name in run_demo.SHOWN
        assert ('--show-dir' in command) == is_shown
        report = Path(command[command.index('--work-dir') + 1]) / 'time'
        report.mkdir()
        (report / 'time.json').write_text('{"mIoU": 100.0}')


@pytest.fixture
def tools(monkeypatch):
    tools = FakeTools()
    monkeypatch.setattr(run_demo, 'run_logged', tools)
    return tools


def seed_run(out, *options):
    arguments = ['--iters', '4', '--images', '2', '1', '1', *options]
    args = run_demo.parse_args(['--out', str(out), *arguments])
    return run_demo.SeedRun(args, seed=0, lock=None)


NUM_STAGES = len(methods.MODELS) + len(methods.METHODS)


@pytest.mark.parametrize('fails_at', [1, 3, NUM_STAGES - 1])
def test_an_interrupted_run_goes_on(tmp_path, tools, fails_at):
    tools.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        seed_run(tmp_path).run()
    tools.fails_at = None
    rows = seed_run(tmp_path).run()
    # Every stage once, none twice.
    assert len(tools.calls) == NUM_STAGES
    assert [row['mIoU'] for row in rows.values()] == [100] * 5
    assert rows['hier-3']['IoU']['road'] == 100


def test_a_finished_run_is_not_repeated(tmp_path, tools):
    first = seed_run(tmp_path).run()
    assert seed_run(tmp_path).run() == first
    assert len(tools.calls) == NUM_STAGES
    # Another split needs tests, but no training.
    seed_run(tmp_path, '--split', 'val').run()
    names = [Path(command[1]).name for command in tools.calls[NUM_STAGES:]]
    assert names == ['test.py'] * len(methods.METHODS)


def test_scales_and_averaging_reach_the_tools(tmp_path, tools):
    seed_run(tmp_path).run()
    tests = tools.calls[len(methods.MODELS) :]
    assert ['--tta' in command for command in tests] == [
        *(False, True, False, False, False),
    ]
    option = 'model.test_cfg.scales='
    scales = [
        next((part for part in command if part.startswith(option)), None)
        for command in tests
    ]
    assert scales[:2] == [None, None]
    assert scales[2:] == [
        f'{option}(0.5,1.0)',
        f'{option}(0.5,1.0,2.0)',
        f'{option}(0.25,0.5,1.0,2.0)',
    ]


def test_other_settings_are_refused(tmp_path, tools):
    seed_run(tmp_path).run()
    with pytest.raises(SystemExit, match='holds a run with other settings'):
        seed_run(tmp_path, '--images', '1', '1', '1')
    seed_run(tmp_path, '--images', '1', '1', '1', '--overwrite').run()
    assert len(tools.calls) == 2 * NUM_STAGES


def test_other_peoples_files_are_left_alone(tmp_path):
    letter = tmp_path / 'seed0' / 'letter.txt'
    letter.parent.mkdir()
    letter.write_text('dear')
    with pytest.raises(SystemExit, match=r'has no state\.json'):
        seed_run(tmp_path, '--overwrite')
    assert letter.read_text() == 'dear'


def test_a_score_that_the_predictions_do_not_have(tmp_path, tools):
    predict = tools.predict

    def predict_and_misreport(command):
        predict(command)
        work_dir = Path(command[command.index('--work-dir') + 1])
        (work_dir / 'time' / 'time.json').write_text('{"mIoU": 90.0}')

    tools.predict = predict_and_misreport
    with pytest.raises(RuntimeError, match=r'reports mIoU 90.0.*have 100.00'):
        seed_run(tmp_path).run()


def test_the_output_of_a_failing_tool_is_shown(tmp_path):
    lock = running.lock_folder(tmp_path)
    code = 'print("reason"); raise SystemExit(3)'
    command = [sys.executable, '-c', code]
    with pytest.raises(SystemExit, match=r'(?s)reason.*failed \(3\)'):
        running.run_logged(command, tmp_path / 'log', 1, lock)
    assert (tmp_path / 'log').read_text() == 'reason\n'


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Run the whole demo, as small as it gets; returns folder and output."""
    out = tmp_path_factory.mktemp('demo')
    command = [sys.executable, DEMO / 'run_demo.py', '--out', out]
    command += ['--iters', '4', '--images', '4', '1', '2', '--threads', '1']
    output = subprocess.run(
        [str(part) for part in command],
        cwd=out,  # not the checkout: nothing may depend on it
        env=dict(os.environ, PYTHONWARNINGS='ignore'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert output.returncode == 0, output.stdout[-5000:]
    return out, output.stdout


def test_demo_prints_and_stores_the_table(demo):
    out, output = demo
    results = json.loads((out / 'results.json').read_text())
    rows = results['seeds']['0']
    assert [*rows] == [method.key for method in methods.METHODS]
    assert results['split'] == 'test'
    for row in rows.values():
        valid = [value for value in row['IoU'].values() if value is not None]
        assert row['mIoU'] == pytest.approx(sum(valid) / len(valid), abs=0.02)
    assert methods.markdown_table(rows, CLASSES) in output


def test_demo_models_differ_in_the_method_alone():
    single, hierarchical = (
        Config.fromfile(path).to_dict() for path in methods.MODELS.values()
    )
    for cfg in (single, hierarchical):
        cfg.pop('tta_pipeline')
    ours, stock = hierarchical.pop('model'), single.pop('model')
    assert hierarchical == single
    head = ours.pop('decode_head')
    assert head['seg_head'] == stock.pop('decode_head')
    differ = {key for key in stock if ours[key] != stock[key]}
    assert differ == {'type', 'train_cfg', 'test_cfg'}


def test_demo_draws_every_picture(demo):
    out, _ = demo
    names = {path.stem for path in (out / 'pictures').glob('*.png')}
    kinds = ['input', 'truth', *(method.key for method in methods.METHODS)]
    kinds += ['attn_0.5', 'attn_1', 'weight_1', 'weight_2']
    expected = {f'{image}_{kind}' for image in range(2) for kind in kinds}
    assert names == expected | {'predictions', 'attention'}
    for name in expected:
        picture = read(out / 'pictures' / f'{name}.png')
        assert picture.shape == (256, 512, 3)
        assert picture.std() > 0


def test_demo_page_stands_alone(demo):
    out, _ = demo
    page = (out / 'index.html').read_text(encoding='utf-8')
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2 * 11
    assert all(s.startswith('data:image/png;base64,') for s in sources)
    assert not re.search(
        r'https?:|//|<script|<link|url\(|@import',
        re.sub(r'src="[^"]*"', '', page),
    )
    assert 'name="viewport"' in page
    assert 'href="attention.html"' in page
    for method in methods.METHODS:
        assert page.count(method.title) > 2


def test_demo_page_of_attention(demo):
    out, output = demo
    assert str(out / 'attention.html') in output
    page = (out / 'attention.html').read_text(encoding='utf-8')
    for name in ('Hierarchical 0.5/1/2', 'Single scale 1'):
        assert name in page
    images = list((out / 'seed0' / 'data').glob('leftImg8bit/test/*/*.png'))
    assert len(images) == 2
    assert all(image.stem in page for image in images)
