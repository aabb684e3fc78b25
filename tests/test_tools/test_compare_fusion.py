"""The comparison of fusion methods: its stages and its report."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[2] / 'tools' / 'dev'
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

import compare_fusion  # noqa: E402
from fusion import comparison as stages  # noqa: E402
from fusion import costs, report  # noqa: E402
from fusion.presets import METHODS, PRESETS, TRAINED  # noqa: E402

KEYS = [method.key for method in METHODS]


def fake_costs(size=(128, 256)):
    ratios = dict(single=1.0, explicit=5.5, hierarchical=1.375)
    models = {}
    for key, ratio in ratios.items():
        relative = dict(flops=ratio, time=ratio, memory=ratio)
        is_single = key == 'single'
        relative.update(
            time_low=ratio if is_single else ratio - 0.25,
            time_high=ratio if is_single else ratio + 0.25,
            cuda_memory=None,
        )
        models[key] = dict(gflops=3.0, ms=7.0, live_mb=9.0, cuda_mb=None)
        models[key]['relative'] = relative
    machine = dict(cpu='abacus', gpu=None, threads=1, torch='2.0', cores=1)
    return dict(
        models=models,
        machine=machine,
        crop_size=[128, 256],
        size=list(size),
        batch_size=4,
        rounds=2,
    )


def fake_results(**kwargs):
    results = dict(
        preset='demo',
        title='Small model',
        seed=0,
        iters=4,
        miou=dict(zip(KEYS, (50.0, 51.0, 52.0, 53.0, 54.0, 55.0))),
        costs=fake_costs(),
        seconds={},
    )
    results.update(kwargs)
    return results


class FakeTools:
    """Stands in for mmseg's tools: writes what they would write."""

    def __init__(self):
        self.calls = []
        self.fails_at = None
        self.score = 'mIoU'

    def __call__(self, command, log_path, threads, lock, use_gpu):
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(command)
        self.use_gpu = use_gpu
        work_dir = Path(command[command.index('--work-dir') + 1])
        if self.tool(command) == 'train.py':
            assert '--resume' in command
            work_dir.mkdir(parents=True)
            (work_dir / 'iter_4.pth').touch()
        else:
            assert not work_dir.exists()
            (work_dir / 'time').mkdir(parents=True)
            scores = {self.score: 50 + len(self.calls)}
            report = work_dir / 'time' / 'time.json'
            report.write_text(json.dumps(scores))

    @staticmethod
    def tool(command):
        return Path(next(c for c in command if c.endswith('.py'))).name


@pytest.fixture
def tools(monkeypatch):
    tools = FakeTools()
    monkeypatch.setattr(stages, 'run_logged', tools)
    monkeypatch.setattr(costs, 'measure', lambda *_: fake_costs())
    # Those of this process, for all tests that follow.
    monkeypatch.setattr('torch.set_num_threads', lambda threads: None)
    return tools


def comparison(work_dir, *options):
    arguments = ['--iters', '4', '--images', '2', '1', '1', *options]
    args = compare_fusion.parse_args(
        ['--work-dir', str(work_dir), *arguments, '--threads', '1']
    )
    return compare_fusion.Comparison(args, lock=None)


NUM_CALLS = len(TRAINED) + len(METHODS)


@pytest.mark.parametrize('fails_at', [0, 2, NUM_CALLS - 1])
def test_an_interrupted_comparison_goes_on(tmp_path, tools, fails_at):
    tools.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        comparison(tmp_path).run()
    tools.fails_at = None
    results = comparison(tmp_path).run()
    # Every stage once, none twice.
    assert len(tools.calls) == NUM_CALLS
    assert [*results['miou']] == KEYS
    assert results['miou']['single'] == 54
    assert comparison(tmp_path).run() == results
    assert len(tools.calls) == NUM_CALLS


def test_a_lost_checkpoint_is_trained_again(tmp_path, tools):
    comparison(tmp_path).run()
    lost = comparison(tmp_path)._checkpoint('explicit')
    lost.unlink()
    lost.parent.rmdir()
    comparison(tmp_path).run()
    assert len(tools.calls) == NUM_CALLS + 1
    assert lost.exists()


def test_what_reaches_the_tools(tmp_path, tools):
    comparison(tmp_path, '--seed', '3').run()
    trainings, tests = tools.calls[: len(TRAINED)], tools.calls[len(TRAINED) :]
    configs = PRESETS['demo'].configs
    for key, command in zip(TRAINED, trainings):
        assert str(configs[key]) in command
        assert 'randomness.seed=3' in command
        assert 'param_scheduler.0.end=4' in command
    for method, command in zip(METHODS, tests):
        assert tools.tool(command) == 'test.py'
        assert str(configs[method.tested]) in command
        checkpoint = tmp_path / 'demo' / method.trained / 'iter_4.pth'
        assert str(checkpoint) in command
        option = 'model.test_cfg.scales='
        found = [part for part in command if part.startswith(option)]
        scales = ','.join(map(str, method.test_scales))
        is_single = method.key == 'single'
        assert found == ([] if is_single else [f'{option}({scales})'])
        root = tmp_path / 'demo' / 'data'
        assert f'test_dataloader.dataset.data_root={root}' in command
    assert tools.use_gpu is False


def test_several_gpus(tmp_path, tools):
    root = tmp_path / 'vistas'
    root.mkdir()
    options = ['--preset', 'mapillary', '--data-root', str(root)]
    results = comparison(tmp_path, *options, '--gpus', '8').run()
    for command in tools.calls:
        assert '--nproc_per_node=8' in command
        launcher = command.index('--launcher')
        assert command[launcher + 1] == 'pytorch'
        assert launcher < command.index('--cfg-options')
        assert f'train_dataloader.dataset.data_root={root}' in command
    assert tools.use_gpu is True
    assert results['iters'] == 4


def test_costs_alone_need_no_data(tmp_path, tools):
    options = ['--preset', 'mapillary', '--data-root', str(tmp_path / 'no')]
    results = comparison(tmp_path, *options, '--measure-only').run()
    assert tools.calls == []
    assert results['miou'] == {}
    with pytest.raises(SystemExit, match='no: no such folder'):
        comparison(tmp_path, *options).run()


def test_other_settings_are_refused(tmp_path, tools):
    comparison(tmp_path).run()
    for options in (['--seed', '1'], ['--images', '1', '1', '1']):
        with pytest.raises(SystemExit, match='comparison with other settings'):
            comparison(tmp_path, *options)
    comparison(tmp_path, '--seed', '1', '--overwrite').run()
    assert len(tools.calls) == 2 * NUM_CALLS
    # More rounds of the timing train nothing.
    comparison(tmp_path, '--seed', '1', '--rounds', '3').run()
    assert len(tools.calls) == 2 * NUM_CALLS


def test_other_peoples_files_are_left_alone(tmp_path):
    letter = tmp_path / 'demo' / 'letter.txt'
    letter.parent.mkdir()
    letter.write_text('dear')
    with pytest.raises(SystemExit, match=r'has no state\.json'):
        comparison(tmp_path, '--overwrite')
    assert letter.read_text() == 'dear'


def test_a_test_without_a_score(tmp_path, tools):
    tools.score = 'mAcc'
    with pytest.raises(SystemExit, match='single: expected one report'):
        comparison(tmp_path).run()


def test_table():
    lines = report.markdown_table(fake_results()).splitlines()
    assert lines[2:6] == [
        '| Single scale | 1 | 1 | 50.00 | 1.00x | 1.00x | 1.00x '
        '| 47.7 | 1.00x | 1.00x |',
        '| Average pooling | 1 | 0.5/1/2 | 51.00 | 1.00x | 1.00x | 1.00x '
        '| 49.4 | 1.00x | 1.00x |',
        '| Explicit (attention to scale) | 0.5/1/2 | 0.5/1/2 | 52.00 '
        '| 5.50x | 5.50x (5.25 to 5.75) | 5.50x | 51.4 | 5.25x | 3.08x |',
        '| Hierarchical | 0.5/1 | 0.5/1 | 53.00 | 1.38x '
        '| 1.38x (1.12 to 1.62) | 1.38x | - | - | - |',
    ]
    assert '| 0.25/0.5/1/2 | 55.00 |' in lines[7]
    assert '| 52.2 | 1.25x | 1.17x |' in lines[7]
    assert len({line.count('|') for line in lines}) == 1


def test_report(tmp_path):
    results = fake_results()
    files = report.write_report(tmp_path / 'new', results)
    assert [path.name for path in files] == [
        *('demo.md', 'demo.json', 'demo.png'),
    ]
    text = files[0].read_text()
    assert report.markdown_table(results) in text
    assert '1 threads, abacus' in text
    assert json.loads(files[1].read_text()) == results
    picture = np.array(Image.open(files[2]).convert('RGB'))
    assert picture.shape[1] > 1000
    for colour, _ in report.STYLES.values():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (picture == rgb).all(axis=2).sum() > 20, colour


def test_report_without_scores(tmp_path):
    files = report.write_report(tmp_path, fake_results(miou={}))
    assert [path.suffix for path in files] == ['.md', '.json']
    text = files[0].read_text()
    assert '| Single scale | 1 | 1 | - | 1.00x |' in text
    assert 'mIoU:' not in text.split('Costs')[1].split('Paper')[1]


def test_what_cuda_allocates_goes_before_what_tensors_hold(tmp_path):
    results = fake_results(miou={})
    for model in results['costs']['models'].values():
        model.update(cuda_mb=2048.0)
        model['relative'].update(cuda_memory=7.25)
    results['costs']['machine'].update(gpu='loom')
    text = report.write_report(tmp_path, results)[0].read_text()
    assert text.count('| 7.25x |') == len(METHODS)
    assert 'single scale 2048 MB' in text
    assert 'loom, torch 2.0' in text


def test_main_writes_where_it_is_told(tmp_path, tools, capsys):
    arguments = ['--work-dir', tmp_path / 'work', '--iters', '4']
    arguments += ['--images', '2', '1', '1', '--out', tmp_path / 'out']
    compare_fusion.main([str(part) for part in arguments])
    printed = capsys.readouterr().out
    assert f'[1/{NUM_CALLS + 2}] generate the scenes' in printed
    page = (tmp_path / 'out' / 'demo.md').read_text()
    assert page.split('\n\n')[1] in printed


def test_averaging_takes_the_single_scale_s_checkpoint(tmp_path):
    """With mmseg's own tools: over scale 1 alone the score is the same."""
    arguments = ['--work-dir', str(tmp_path), '--iters', '6']
    arguments += ['--images', '4', '1', '2', '--threads', '1']
    args = compare_fusion.parse_args(arguments)
    run = compare_fusion.Comparison(args, compare_fusion.lock_folder(tmp_path))
    run._generate()
    run._train('single')
    single, average = METHODS[:2]
    run._test(single)
    run._test(average._replace(test_scales=(1.0,)))
    scores = run.state['miou']
    assert scores['average'] == scores['single'] > 0
    log = (run.root / 'test_average.log').read_text()
    assert 'keys decode_head.* were read as decode_head.seg_head.*' in log
    assert 'do not match exactly' not in log
