"""The comparison of fusion methods: its configs and what it measures."""

import numpy as np
import pytest
import torch
from benchmarks.cases import Options
from benchmarks.measure import count_flops, peak_live_bytes
from benchmarks.networks import build, images, labels, samples
from benchmarks.steps import meta_step, use_plain_losses
from fusion import costs
from fusion.experiment import METHODS, PRESETS, TRAINED
from mmengine.config import Config
from mmseg.registry import MODELS

CONFIGS = {key: PRESETS['demo'].configs[key] for key in TRAINED}
each_preset = pytest.mark.parametrize('preset', PRESETS.values(), ids=PRESETS)


@each_preset
def test_configs_differ_in_the_method_alone(preset):
    cfgs = {
        key: Config.fromfile(path).to_dict()
        for key, path in preset.configs.items()
    }
    stock = cfgs.pop('single')
    types = dict(
        average='MultiScaleAverageHead',
        explicit='AttentionToScaleHead',
        hierarchical='HierarchicalMSAttentionHead',
    )
    assert cfgs.keys() == types.keys()
    stock.pop('tta_pipeline')
    stock_model = stock.pop('model')
    for key, cfg in cfgs.items():
        cfg.pop('tta_pipeline')
        cfg.pop('scales', None)
        model = cfg.pop('model')
        assert cfg == stock, key
        head = model.pop('decode_head')
        assert head['type'] == types[key]
        assert head['seg_head'] == stock_model['decode_head']
        differ = {k for k in model if model[k] != stock_model[k]}
        assert differ == {'type', 'train_cfg', 'test_cfg'}
        trained = {m.trained for m in METHODS if m.tested == key}
        (trained,) = trained
        # As in the paper: none.
        assert model['train_cfg'].pop('stats_scale', None) is None
        assert model['train_cfg'] == dict(scales=TRAINED[trained])
    # What the two ways of attention have beside the method.
    names = ('attn_channels', 'loss_scale')
    explicit, hierarchical = (
        Config.fromfile(preset.configs[key]).model.decode_head
        for key in ('explicit', 'hierarchical')
    )
    assert [explicit.get(name) for name in names] == [
        hierarchical.get(name) for name in names
    ]


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


@pytest.mark.parametrize('key', TRAINED)
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
    threads = torch.get_num_threads()
    found = costs.measure(CONFIGS, 4, (32, 64), rounds=1)
    assert torch.get_num_threads() == threads
    assert found['size'] == [32, 64]
    assert found['crop_size'] == [128, 256]  # FLOPs: at the crop all the same
    models = found['models']
    assert [*models] == [*TRAINED]
    for model in models.values():
        relative, single = model['relative'], models['single']
        ratio = model['gflops'] / single['gflops']
        assert relative['flops'] == pytest.approx(ratio)
        assert relative['memory'] == model['live_mb'] / single['live_mb']
        assert relative['time_low'] <= relative['time']
        assert relative['time'] <= relative['time_high']
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
