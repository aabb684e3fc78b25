"""The comparison of fusion methods: configs, jobs, costs and report."""

import json
from pathlib import Path

import numpy as np
import pytest
import run
import torch
from benchmarks.cases import Options
from benchmarks.measure import count_flops, peak_live_bytes
from benchmarks.networks import build, images, labels, samples
from benchmarks.steps import meta_step, use_plain_losses
from driver.commands import recipe
from fusion import costs, report
from fusion.experiment import METHODS, PRESETS, TRAINED, plan
from mmengine.config import Config
from mmseg.registry import MODELS

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


def test_a_changed_config_is_another_recipe(tmp_path):
    changed = tmp_path / 'changed.py'
    cfg = Config.fromfile(PRESETS['demo'].configs['explicit'])
    cfg.dump(changed)
    before = recipe([changed])
    assert recipe([changed]) == before
    cfg.model.decode_head.attn_channels += 1
    cfg.dump(changed)
    assert recipe([changed]) != before


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


def conv_flops(module, *inputs):
    """Operations of a module's convolutions, forward, from their shapes."""
    total, first = [], []

    def count(conv, _, output):
        taps = conv.in_channels // conv.groups * np.prod(conv.kernel_size)
        total.append(2 * output.numel() * int(taps))
        first.append(conv)

    convs = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    handles = [conv.register_forward_hook(count) for conv in convs]
    module(*inputs)
    for handle in handles:
        handle.remove()
    return sum(total), total[0]


def test_flops_are_those_of_the_convolutions():
    """Backward costs twice the forward, but for the image's gradient."""
    preset = PRESETS['demo']
    cfgs = {k: Config.fromfile(preset.configs[k]) for k in TRAINED}
    num = 2
    found = {
        k: count_flops(meta_step('own', cfg, num, (128, 256), Options()))
        for k, cfg in cfgs.items()
    }

    stock = MODELS.build(cfgs['single'].model)
    inputs = torch.zeros(num, 3, 128, 256)
    forward, first = conv_flops(stock, inputs)
    single = 3 * forward - first
    assert found['single'] == single

    def attention(key, channels):
        branch = MODELS.build(cfgs[key].model).decode_head.scale_attn
        return conv_flops(branch, torch.zeros(num, channels, 32, 64))[0]

    # The lower scale's has a quarter of the pixels and learns; the higher
    # scale's runs for its statistics.
    branch = attention('hierarchical', 32)
    expected = 1.25 * single + 3 * branch / 4 + branch
    assert found['hierarchical'] == expected
    branch = attention('explicit', 3 * 32)
    assert found['explicit'] == 5.25 * single + 3 * branch


@pytest.mark.parametrize('key', ['single', 'hierarchical'])
def test_stand_in_losses(key):
    """They are mmseg's cross-entropy, and hold what that holds.

    On whole logits, that is: in tiles of rows, losses hold less.
    """
    cfg = Config.fromfile(CONFIGS[key])
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
    for model in models.values():
        relative, single = model['relative'], models['single']
        ratio = model['gflops'] / single['gflops']
        assert relative['flops'] == pytest.approx(ratio)
        assert relative['memory'] == model['live_mb'] / single['live_mb']
        assert relative['time_low'] <= relative['time']
    memory = [models[key]['live_mb'] for key in TRAINED]
    single, explicit, hierarchical = memory
    # The images alone are 1, 5.25 and 1.25 times as large.
    assert explicit > 4 * single
    assert single < hierarchical < explicit / 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_measure_on_a_gpu():
    found = costs.measure(CONFIGS, 4, (128, 256), 1)
    models = found['models']
    single, explicit, hierarchical = (models[k]['cuda_mb'] for k in TRAINED)
    # Blocks are rounded up and kernels take workspace.
    assert single > 0.9 * models['single']['live_mb']
    # What is counted has plain losses of whole logits; here, where they are
    # made in tiles, two scales may take no more than mmseg's one.
    assert hierarchical < 1.1 * models['hierarchical']['live_mb']
    assert hierarchical < explicit
