"""The comparison of fusion methods: its jobs and its report."""

import json

import pytest
import run
from driver.commands import recipe
from fusion import report
from fusion.experiment import METHODS, PRESETS, TRAINED, plan
from mmengine.config import Config
from PIL import Image

KEYS = [method.key for method in METHODS]


def fake_results():
    models = {}
    for key, ratio, spread in (
        *(('single', 1.0, 0), ('explicit', 5.5, 0.25)),
        ('hierarchical', 1.375, 0.25),
    ):
        relative = dict(flops=ratio, time=ratio, memory=ratio)
        relative.update(time_low=ratio - spread, time_high=ratio + spread)
        models[key] = dict(gflops=3.0, ms=7.0, live_mb=9.0, cuda_mb=None)
        models[key]['relative'] = dict(relative, cuda_memory=None)
    machine = dict(cpu='abacus', gpu=None, threads=1, torch='2.0')
    sizes = dict(crop_size=[128, 256], size=[128, 256], batch_size=4, rounds=2)
    return dict(
        preset='demo',
        title='Small model',
        seed=0,
        iters=4,
        miou=dict(zip(KEYS, (50.0, 51.0, 52.0, 53.0, 54.0, 55.0))),
        costs=dict(models=models, machine=machine, **sizes),
    )


def planned(tmp_path, *options):
    command = ['compare', '--work-dir', str(tmp_path), '--iters', '4']
    (only,) = plan(run.parse_args([*command, *map(str, options)]))
    return only


def commands(only, kind):
    return {
        name.split(' ')[1]: [str(part) for part in job.command()]
        for name, job in only.jobs.items()
        if name.startswith(f'{kind} ')
    }


def test_what_reaches_the_tools(tmp_path):
    only = planned(tmp_path, '--seed', 3)
    configs = PRESETS['demo'].configs
    for key, command in commands(only, 'train').items():
        assert str(configs[key]) in command
        assert 'randomness.seed=3' in command
        assert 'param_scheduler.0.end=4' in command
    for method, command in zip(METHODS, commands(only, 'test').values()):
        assert str(configs[method.tested]) in command
        checkpoint = tmp_path / 'demo' / method.trained / 'iter_4.pth'
        assert str(checkpoint) in command
        option = 'model.test_cfg.scales='
        found = [part for part in command if part.startswith(option)]
        scales = ','.join(map(str, method.test_scales))
        is_single = method.key == 'single'
        assert found == ([] if is_single else [f'{option}({scales})'])
    *others, measurement = only.jobs.values()
    # Nothing runs beside what is timed.
    assert measurement.needs == [job.name for job in others]
    assert [*commands(only, 'train')] == [*TRAINED]
    assert [*commands(only, 'test')] == KEYS


def test_several_gpus(tmp_path):
    options = ['--preset', 'mapillary', '--data-root', tmp_path, '--gpus', 8]
    only = planned(tmp_path, *options)
    for kind in ('train', 'test'):
        for command in commands(only, kind).values():
            assert '--nproc_per_node=8' in command
            assert f'train_dataloader.dataset.data_root={tmp_path}' in command
    (time,) = commands(only, 'time').values()
    # At the crop of the config.
    assert time[time.index('--size') + 1 :][:2] == ['1024', '1024']


def test_costs_alone_need_no_data(tmp_path):
    options = ['--preset', 'mapillary', '--data-root', tmp_path / 'no']
    only = planned(tmp_path, *options, '--measure-only')
    assert len(only.jobs) == 1
    with pytest.raises(SystemExit, match='no: no such folder'):
        planned(tmp_path, *options)


def test_a_changed_config_is_another_recipe(tmp_path):
    changed = tmp_path / 'changed.py'
    cfg = Config.fromfile(PRESETS['demo'].configs['explicit'])
    cfg.dump(changed)
    before = recipe([changed])
    assert recipe([changed]) == before
    cfg.model.decode_head.attn_channels += 1
    cfg.dump(changed)
    assert recipe([changed]) != before


def test_table():
    lines = report.table(fake_results()).splitlines()
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
    files = report.write_report(tmp_path, results)
    assert [path.name for path in files] == [
        *('demo.md', 'demo.json', 'demo.png'),
    ]
    text = files[0].read_text()
    assert report.table(results) in text
    assert '1 threads, abacus' in text
    assert json.loads(files[1].read_text()) == results
    with Image.open(files[2]) as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_averaging_takes_the_single_scale_s_checkpoint(tmp_path, start):
    """With mmseg's own tools: over scale 1 alone the score is the same."""
    with pytest.MonkeyPatch.context() as patch:
        average = METHODS[1]._replace(test_scales=(1.0,))
        methods = (METHODS[0], average, *METHODS[2:])
        patch.setattr('fusion.experiment.METHODS', methods)
        command = ('compare', '--work-dir', tmp_path, '--iters', 6)
        start(*command, '--images', 4, 1, 2, '--rounds', 1, '--threads', 1)
    scores = json.loads((tmp_path / 'demo.json').read_text())['miou']
    assert [*scores] == KEYS
    assert scores['average'] == scores['single'] > 0
    log = (tmp_path / 'demo/logs/test_average.log').read_text()
    assert 'keys decode_head.* were read as decode_head.seg_head.*' in log
    assert 'do not match exactly' not in log
    text = (tmp_path / 'demo.md').read_text()
    assert f'| Single scale | 1 | 1 | {scores["single"]:.2f} | 1.00x |' in text
