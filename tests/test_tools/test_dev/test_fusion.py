"""The comparison of fusion methods: configs, jobs, costs and report."""

import json
from pathlib import Path

import pytest
import run
import torch
from benchmarks.cases import Options
from benchmarks.measure import peak_live_bytes
from benchmarks.networks import build, images, labels, samples
from benchmarks.steps import meta_step, use_plain_losses
from fusion import costs, report
from fusion.experiment import METHODS, PRESETS, TRAINED, plan
from mmengine.config import Config

DOCS = Path(__file__).parents[3] / 'docs/fusion'
KEYS = [method.key for method in METHODS]
CONFIGS = {key: PRESETS['demo'].configs[key] for key in TRAINED}


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


def test_mapillary_on_several_gpus(tmp_path):
    options = ['--preset', 'mapillary', '--data-root', tmp_path, '--gpus', 8]
    only = planned(tmp_path, *options)
    for kind in ('train', 'test'):
        for command in commands(only, kind).values():
            assert '--nproc_per_node=8' in command
            assert f'train_dataloader.dataset.data_root={tmp_path}' in command
    (time,) = commands(only, 'time').values()
    # At the crop of the config.
    assert time[time.index('--size') + 1 :][:2] == ['1024', '1024']
    # Costs alone need no data.
    options = ['--preset', 'mapillary', '--data-root', tmp_path / 'no']
    with pytest.raises(SystemExit, match='no: no such folder'):
        planned(tmp_path / 'other', *options)
    only = planned(tmp_path / 'third', *options, '--measure-only')
    assert len(only.jobs) == 1


@pytest.mark.parametrize('preset', PRESETS)
def test_report(preset, tmp_path):
    """Of the committed results: the committed table."""
    results = json.loads((DOCS / f'{preset}.json').read_text())
    page, data, *plot = report.write_report(tmp_path, results)
    assert json.loads(data.read_text()) == results
    table = report.table(results)
    assert table in page.read_text()
    assert table in (DOCS / f'{preset}.md').read_text()
    assert [path.is_file() for path in plot] == [True] * bool(results['miou'])


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


@pytest.mark.parametrize('preset', PRESETS.values(), ids=PRESETS)
def test_configs_differ_in_the_method_alone(preset):
    cfgs = {
        key: Config.fromfile(path).to_dict()
        for key, path in preset.configs.items()
    }
    for cfg in cfgs.values():
        cfg.pop('tta_pipeline')
        cfg.pop('scales', None)
    stock = cfgs.pop('single')
    stock_model = stock.pop('model')
    heads = {}
    for key, cfg in cfgs.items():
        model = cfg.pop('model')
        assert cfg == stock, key
        heads[key] = model.pop('decode_head')
        assert heads[key]['seg_head'] == stock_model['decode_head']
        differ = {k for k in model if model[k] != stock_model[k]}
        assert differ == {'type', 'train_cfg', 'test_cfg'}
        (trained,) = {m.trained for m in METHODS if m.tested == key}
        # As in the paper: none.
        assert model['train_cfg'].pop('stats_scale', None) is None
        assert model['train_cfg'] == dict(scales=TRAINED[trained])
    assert {key: head['type'] for key, head in heads.items()} == dict(
        average='MultiScaleAverageHead',
        explicit='AttentionToScaleHead',
        hierarchical='HierarchicalMSAttentionHead',
    )
    for name in ('attn_channels', 'loss_scale'):
        explicit, hierarchical = heads['explicit'], heads['hierarchical']
        assert explicit.get(name) == hierarchical.get(name)


def test_stand_in_losses():
    """They are mmseg's cross-entropy, and hold what that holds.

    On whole logits, that is: in tiles of rows, losses hold less.
    """
    cfg = Config.fromfile(CONFIGS['hierarchical'])
    size = tuple(cfg.crop_size)
    model = build(cfg, fast=False, size=size).train()
    inputs, label = images(2, size), labels(2, size, 9, 9)

    def step():
        losses = model.loss(inputs, samples(label))
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        model.zero_grad()

    held = peak_live_bytes(step)
    with torch.no_grad():
        theirs = model.eval().loss(inputs, samples(label))
    use_plain_losses(model)
    with torch.no_grad():
        ours = model.eval().loss(inputs, samples(label))
    # Those of single scales stand for themselves, without their weight; those
    # of mmseg are means over ignored pixels, too.
    valid = float((label != 255).float().mean())
    for name, value in ours.items():
        factor = 1 if 'decode' in name else 0.05
        found = factor * valid * float(value)
        assert found == pytest.approx(float(theirs[name]), rel=1e-5)
    on_meta = meta_step('plain', cfg, 2, size, Options())
    assert peak_live_bytes(on_meta) == pytest.approx(held, rel=0.05)


def test_measure():
    found = costs.measure(CONFIGS, 4, (32, 64), rounds=1)
    assert found['size'] == [32, 64]
    assert found['crop_size'] == [128, 256]  # FLOPs: at the crop all the same
    models = found['models']
    relative = {key: model['relative'] for key, model in models.items()}
    for key, model in models.items():
        ratio = model['gflops'] / models['single']['gflops']
        assert relative[key]['flops'] == pytest.approx(ratio)
        assert relative[key]['time_low'] <= relative[key]['time']
    # The images alone are 1, 5.25 and 1.25 times as large; the rest of the
    # operations is that of attention.
    assert 5.25 < relative['explicit']['flops'] < 5.75
    assert 1.25 < relative['hierarchical']['flops'] < 1.4
    assert relative['explicit']['memory'] > 4
    assert relative['hierarchical']['memory'] > 1
    assert (
        relative['hierarchical']['memory'] < relative['explicit']['memory'] / 2
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_measure_on_a_gpu():
    models = costs.measure(CONFIGS, 4, (128, 256), 1)['models']
    single, explicit, hierarchical = (models[k]['cuda_mb'] for k in TRAINED)
    # Blocks are rounded up and kernels take workspace.
    assert single > 0.9 * models['single']['live_mb']
    # What is counted has plain losses of whole logits; here, where they are
    # made in tiles, two scales may take no more than mmseg's one.
    assert hierarchical < 1.1 * models['hierarchical']['live_mb']
    assert hierarchical < explicit
