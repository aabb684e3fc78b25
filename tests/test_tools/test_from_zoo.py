"""tools/from_zoo.py: from a zoo config and its weights to a training."""

import json
import re

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmseg.registry import MODELS

from hmsa_mmseg import cli
from hmsa_mmseg.zoo import find_config

NAME = 'fcn_r18-d8_4xb2-80k_cityscapes-512x1024'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
OUT = f'hmsa_{NAME}.py'
SMALL = """
_base_ = {base!r}
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    pretrained=None,
    backbone=dict(norm_cfg=norm_cfg, base_channels=8, stem_channels=8),
    decode_head=dict(in_channels=64, channels=8, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=norm_cfg),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
param_scheduler = [dict(type='PolyLR', end=8, by_epoch=False)]
train_cfg = dict(max_iters=8, val_interval=8)
default_hooks = dict(checkpoint=dict(interval=8))
"""


@pytest.fixture(autouse=True)
def in_folder(monkeypatch, tmp_path):
    """Write below tmp_path, without yapf, which takes seconds for a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, True)
    )


@pytest.fixture
def from_zoo(load_tool, capsys):
    """Return a function that runs the tool: its status and what it said."""

    def run(*args):
        status = load_tool('from_zoo.py').main([str(arg) for arg in args])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def small(tmp_path):
    """Return a small stock config, and weights of its model."""
    config = tmp_path / 'small_4xb2-8_cityscapes.py'
    config.write_text(SMALL.format(base=str(find_config(NAME))))
    model = MODELS.build(ConfigDict(Config.fromfile(config).model))
    checkpoint = tmp_path / 'small.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return config, checkpoint


def test_a_config_of_the_zoo(from_zoo, tmp_path):
    status, said = from_zoo(NAME)
    assert status == 0
    assert '  model.type: was EncoderDecoder\n' in said
    assert 'Backbone and heads see 1.25x the pixels of scale 1' in said
    assert '5.25x the pixels of scale 1 (0.5, 1.0, 2.0) at test time' in said
    commands = re.findall(rf'^  hmsa ([\w-]+) {OUT}', said, re.M)
    assert {'flops', 'browse', 'train', 'test'} == {*commands}
    assert {*commands} <= {*cli.COMMANDS}
    # What exists stays.
    text = (tmp_path / OUT).read_text()
    (tmp_path / OUT).write_text('mine = 1\n')
    status, said = from_zoo(NAME)
    assert status == 1
    assert said == f'error: {OUT} exists; --force replaces it\n'
    assert from_zoo(NAME, '--force')[0] == 0
    assert (tmp_path / OUT).read_text() == text


def test_options(from_zoo, tmp_path):
    out = tmp_path / 'sub/own.py'
    args = [NAME, '-o', out, '--scales', 0.25, 1, '--train-scales', 0.5, 0.75]
    args += [1, '--num-classes', 7, '--data-root', '/data/mine']
    assert from_zoo(*args)[0] == 0
    cfg = Config.fromfile(out)
    assert cfg.model.train_cfg.scales == (0.5, 0.75, 1.0)
    assert cfg.model.test_cfg.scales == (0.25, 1.0)
    assert cfg.model.decode_head.seg_head.num_classes == 7
    assert cfg.model.auxiliary_head.num_classes == 7
    assert cfg.val_dataloader.dataset.data_root == '/data/mine'
    # A folder gets a file of the usual name. What a folder of data changes
    # is said.
    for kind in ('images', 'masks'):
        for split in ('train', 'val'):
            (tmp_path / kind / split).mkdir(parents=True)
    args = ['--folder', tmp_path, '--classes', 'road,tree', '-o', out.parent]
    status, said = from_zoo(DDRNET, *args)
    assert status == 0, said
    assert (out.parent / f'hmsa_{DDRNET}.py').is_file()
    assert 'so the validation split is taken' in said
    loss = 'model.decode_head.seg_head.loss_decode.0.class_weight: the weight'
    assert loss in said


def test_attention_for_a_trained_model_trains(
    from_zoo, small, data_root, run_stock, tmp_path, monkeypatch
):
    config, checkpoint = small
    args = ['--attention-only', '--data-root', data_root]
    status, said = from_zoo(config, checkpoint, *args)
    assert status == 0, said
    stock = torch.load(checkpoint, weights_only=True)['state_dict']
    assert f'small.pth: all is used, {len(stock)} tensors' in said
    assert 'to be trained: decode_head.scale_attn.' in said
    out = tmp_path / 'hmsa_small_4xb2-8-attn-only-0.001k_cityscapes.py'
    # The checkpoint is found from any folder.
    assert Config.fromfile(out).load_from == str(checkpoint)
    work_dir = tmp_path / 'run'
    # mmseg sets it, for good.
    monkeypatch.setenv('LOCAL_RANK', '0')
    run_stock('train.py', out, '--work-dir', work_dir)
    (log,) = work_dir.glob('*/*.log')
    assert 'Iter(val) [3/3]' in log.read_text()
    last = work_dir / 'iter_1.pth'
    run_stock('test.py', out, last, '--tta', '--work-dir', tmp_path / 'test')
    (scores,) = tmp_path.glob('test/*/*.json')
    assert 'mIoU' in scores.read_text()
    state = torch.load(last, weights_only=True)['state_dict']
    for key, value in stock.items():
        own = key.replace('decode_head.', 'decode_head.seg_head.')
        assert torch.equal(state[own], value), key


@pytest.mark.fault(
    'a zoo checkpoint of other classes: hmsa from-zoo',
    'refused; nothing is written',
)
def test_a_checkpoint_that_does_not_fit(from_zoo, small, tmp_path):
    config, checkpoint = small
    before = sorted(tmp_path.iterdir())
    status, said = from_zoo(config, checkpoint, '--num-classes', 7)
    assert status == 1
    assert 'holds 19 classes (decode_head.seg_head.conv_seg.weight)' in said
    assert sorted(tmp_path.iterdir()) == before
    args = ['--num-classes', 7, '--reinit-classifier']
    status, said = from_zoo(config, checkpoint, *args)
    assert status == 0
    (line,) = [one for one in said.splitlines() if 'another number' in one]
    assert line.count('conv_seg') == 4


@pytest.mark.parametrize(
    ('args', 'match'),
    [
        (['fcn_r19-d8_4xb2-80k_cityscapes-512x1024'], f'names: {NAME}'),
        (['pointrend_r50_4xb2-80k_cityscapes-512x1024'], 'single points'),
        ([NAME, 'missing.pth'], 'missing.pth'),
        ([NAME, '--crop-size', 0, 64], 'crop_size: expected 1 or more'),
        ([NAME, '--attention-only'], 'attention-only needs checkpoint'),
        ([NAME, '--folder', '.'], 'folder needs classes'),
        (
            [NAME, 'a.pth', '--finetune', '--reinit-classifier'],
            'finetune excludes reinit-classifier',
        ),
    ],
)
def test_errors(args, match, from_zoo, tmp_path):
    status, said = from_zoo(*args)
    assert status == 1
    assert said.startswith('error: ')
    assert match in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('option', [[], ['--finetune']])
def test_attention_in_one_command(
    option, load_tool, small, data_root, tmp_path, capsys
):
    """Trained, scored, not trained again; the single scale is as it was."""
    config, checkpoint = small
    # As a training leaves it.
    state = torch.load(checkpoint, weights_only=True)
    state['optimizer'] = dict(state={}, param_groups=[dict(params=[0])])
    state.update(meta=dict(iter=8, epoch=0), message_hub={})
    torch.save(state, checkpoint)
    roots = {
        f'{name}_dataloader.dataset.data_root': str(data_root)
        for name in ('train', 'val', 'test')
    }
    args = [config, checkpoint, '--work-dir', 'work', '--iters', 2, *option]
    args += ['--cfg-options', *(f'{k}={v}' for k, v in roots.items())]
    args = [*map(str, args)]
    tool = load_tool('add_attention.py')
    assert tool.main(args) == 0
    found = json.loads((tmp_path / 'work' / 'scores.json').read_text())
    last = tmp_path / 'work' / 'iter_2.pth'
    trained = last.read_bytes()
    weights = torch.load(last, weights_only=True)['state_dict']
    # Fine-tuning leaves the statistics as they are, and nothing else.
    for key, value in state['state_dict'].items():
        if key.startswith('backbone'):
            same = not option or 'running' in key or 'num_b' in key
            assert torch.equal(weights[key], value) == same, key
    assert tool.main(args) == 0
    assert last.read_bytes() == trained
    # The single scale is the stock model.
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(
        dict(roots, work_dir='stock', load_from=str(checkpoint))
    )
    expected = Runner.from_cfg(cfg).val()['mIoU']
    single = found.pop('single scale, as it was')
    assert single == pytest.approx(expected, abs=0.01)
    assert len(found) == 2
    capsys.readouterr()
    args[args.index('--iters') + 1] = '3'
    assert tool.main(args) == 1
    assert 'cityscapes.py differs in param_scheduler, train_cfg' in (
        capsys.readouterr().err
    )
