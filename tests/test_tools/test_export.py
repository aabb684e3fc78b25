import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from hmsa_mmseg.datasets import HMSACityscapesDataset
from hmsa_mmseg.export import read_metadata

TOOL = Path(__file__).parents[2] / 'tools/export.py'
CLASSES = ('road', 'wall', 'tree', 'sky', 'car')
PALETTE = [[10 * i, 0, 255] for i in range(5)]
SIZE = ['--size', '40', '56']


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('export', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool, tmp_path, build_lively, tiny_model_cfg, capsys):
    """Return a function that runs the tool on a tiny model."""
    cfg = dict(
        custom_imports=dict(imports=['hmsa_mmseg']),
        default_scope='mmseg',
        model=tiny_model_cfg(),
        test_dataloader=dict(
            dataset=dict(
                type='HMSACityscapesDataset',
                metainfo=dict(classes=CLASSES, palette=PALETTE),
            )
        ),
    )
    config = tmp_path / 'config.py'
    Config(cfg).dump(config)
    checkpoint = tmp_path / 'model.pth'
    model = build_lively()
    torch.save(dict(state_dict=model.state_dict()), checkpoint)

    def run(*args, code=0, config=config):
        args = [str(config), str(checkpoint), *map(str, args)]
        assert tool.main(args) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    run.model = model
    run.cfg = Config(cfg)
    run.config = config
    run.checkpoint = checkpoint
    return run


def test_export(run, tmp_path):
    out = tmp_path / 'made/model.onnx'
    said = run(
        *('--format', 'onnx', '--out', out, *SIZE, '--dynamic', '--raw'),
        *('--scales', '1', '0.5', '--opset', '16', '--fold-bn'),
    )
    assert said.count('verified: ') == 3
    assert 'verified: 1 x 49 x 51: 100' in said
    assert said.splitlines()[-1].startswith(f'{out}: 0.')
    found = read_metadata(out, 'onnx')
    assert found['scales'] == [0.5, 1.0]
    assert found['classes'] == list(CLASSES)
    assert found['palette'] == PALETTE
    assert found['raw'] == 'uint8'
    assert found['dynamic'] is True


def test_weights_of_the_checkpoint(run, tmp_path):
    """With classes of its own, and written by a distributed run."""
    state = {f'module.{k}': v for k, v in run.model.state_dict().items()}
    state['module.not_of_this_model'] = torch.zeros(1)
    meta = dict(dataset_meta=dict(classes=CLASSES[::-1], palette=None))
    torch.save(dict(state_dict=state, meta=meta), run.checkpoint)
    out = tmp_path / 'model.pt2'
    said = run(
        *('--format', 'torch-export', '--out', out, *SIZE, '--classes'),
        *('--batch', '1', '--cfg-options', 'model.test_cfg.scales=(0.75,1.5)'),
    )
    assert 'not_of_this_model' in said
    found = read_metadata(out, 'torch-export')
    assert found['classes'] == list(CLASSES[::-1])
    assert found['palette'] is None
    assert found['scales'] == [0.75, 1.5]
    image = torch.randn(1, 3, 40, 56)
    run.model.test_cfg.scales = (0.75, 1.5)
    with torch.no_grad():
        expected = run.model.encode_decode(image).argmax(dim=1)
    assert len(expected.unique()) > 1
    found = torch.export.load(str(out)).module()(image)
    assert (found == expected).float().mean() > 0.999


def test_errors(run, tmp_path):
    out = tmp_path / 'model.onnx'
    said = run('--out', out, *SIZE, '--opset', '9', code=1)
    assert said.startswith('error: opset must be an integer of 11')
    said = run('--out', out, *SIZE, '--format', 'torchscript', code=1)
    assert "format='torchscript' is no longer written" in said
    slide = 'model.test_cfg.mode=slide'
    window = [
        'model.test_cfg.crop_size=(32,32)',
        'model.test_cfg.stride=(16,16)',
    ]
    said = run('--out', out, *SIZE, '--cfg-options', slide, *window, code=1)
    assert "error: model.test_cfg.mode='slide' cannot be exported" in said
    state = run.model.state_dict()
    del state['decode_head.scale_attn.conv0.weight']
    torch.save(state, run.checkpoint)
    said = run('--out', out, *SIZE, code=1)
    assert 'lacks 1 of the weights' in said
    assert 'decode_head.scale_attn.conv0.weight' in said
    run.checkpoint.write_bytes(b'no checkpoint')
    said = run('--out', out, *SIZE, code=1)
    assert f'error: cannot load {run.checkpoint}' in said
    assert f'{out} was not written' in said
    assert not out.exists()


def change_shape(state, name, size):
    state[name] = torch.zeros(size, *state[name].shape[1:])
    return state


def test_checkpoints_of_other_models(run, tmp_path):
    out = tmp_path / 'model.onnx'
    does_not_fit = f'error: {run.checkpoint} does not fit the model of '
    does_not_fit += f'{run.config}: '
    name = 'backbone.layer1.0.conv1.weight'
    state = change_shape(run.model.state_dict(), name, 7)
    torch.save(state, run.checkpoint)
    said = run('--out', out, *SIZE, code=1)
    assert said.startswith(f'{does_not_fit}RuntimeError: ')
    assert f'size mismatch for {name}' in said

    name = 'decode_head.seg_head.conv_seg.weight'
    torch.save(change_shape(run.model.state_dict(), name, 7), run.checkpoint)
    said = run('--out', out, *SIZE, code=1)
    assert said.startswith(f'{does_not_fit}ValueError: ')
    assert 'the checkpoint holds 7 classes' in said

    torch.save(dict(state_dict=[1]), run.checkpoint)
    said = run('--out', out, *SIZE, code=1)
    assert said.startswith(f'error: {run.checkpoint} holds no weights')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('model.backbone.type=NoSuchNet', r'KeyError: .*NoSuchNet is not in'),
        ('model.backbone.num_stages=0', r'AssertionError: '),
        ('model.decode_head.type=FCNHead', r'TypeError: '),
        ('model.test_cfg.scales=(-1,)', r'ValueError: .*test_cfg.scales'),
    ],
)
def test_models_that_cannot_be_built(change, message, run, tmp_path):
    out = tmp_path / 'model.onnx'
    said = run('--out', out, *SIZE, '--cfg-options', change, code=1)
    start = re.escape(f'error: {run.config}: model cannot be built: ')
    assert re.match(start + message, said)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('lr = 0.1', r': model=None; expected the config of a training'),
        ('model = 3', r': model=3; expected'),
        ('model = dict(', r' cannot be read as a config: SyntaxError: '),
        (
            "custom_imports = dict(imports=['no_such_module'], "
            'allow_failed_imports=False)',
            r' cannot be read as a config: ImportError: .*no_such_module',
        ),
    ],
)
def test_files_that_are_no_configs(text, message, run, tmp_path):
    config = tmp_path / 'other.py'
    config.write_text(text)
    said = run('--out', tmp_path / 'm.onnx', *SIZE, code=1, config=config)
    assert re.match(re.escape(f'error: {config}') + message, said)


def test_out_is_checked_first(run, tmp_path):
    config = tmp_path / 'no_such_config.py'
    for out, message in (
        (run.checkpoint, 'is the checkpoint, which would be lost'),
        (tmp_path, 'is a directory'),
        (run.checkpoint / 'model.onnx', 'cannot be written'),
    ):
        said = run('--out', out, *SIZE, code=1, config=config)
        assert said.startswith(f'error: {out} {message}')
    said = run('--out', run.config, *SIZE, code=1)
    assert said.startswith(f'error: {run.config} is the config')
    assert run.config.stat().st_size > 0


def test_checkpoint_of_mmseg_itself(run, tool, tiny_model_cfg):
    """A stock model has its head where the wrapped one is here."""
    head = tiny_model_cfg()['decode_head']['seg_head']
    run.cfg.model.decode_head = dict(
        type='MultiScaleAverageHead', seg_head=head
    )
    stock = {
        key.replace('decode_head.seg_head.', 'decode_head.'): value
        for key, value in run.model.state_dict().items()
        if 'scale_attn' not in key
    }
    assert 'decode_head.conv_seg.weight' in stock
    torch.save(dict(state_dict=stock), run.checkpoint)
    model = tool.load_model(run.cfg, str(run.checkpoint))
    found = model.state_dict()
    assert len(found) == len(stock)
    for key, value in run.model.state_dict().items():
        assert 'scale_attn' in key or torch.equal(found[key], value)


def test_a_dataset_given_as_a_class(run, tool):
    run.cfg.test_dataloader.dataset = dict(type=HMSACityscapesDataset)
    model = tool.load_model(run.cfg, str(run.checkpoint))
    found = model.dataset_meta['classes']
    assert found == HMSACityscapesDataset.METAINFO['classes']


def test_runs_as_a_script():
    out = subprocess.check_output([sys.executable, TOOL, '-h'], text=True)
    assert '--dynamic' in out
