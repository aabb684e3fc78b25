"""A trained model to a file for deployment."""

import re

import pytest
import torch
from mmengine.config import Config

from hmsa_mmseg.datasets import HMSACityscapesDataset
from hmsa_mmseg.export import read_metadata

CLASSES = ('road', 'wall', 'tree', 'sky', 'car')
PALETTE = [[10 * i, 0, 255] for i in range(5)]
SIZE = ['--size', '40', '56']


@pytest.fixture
def tool(load_tool):
    return load_tool('export.py')


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


def test_checkpoints_that_do_not_fit(run, tmp_path):
    out = tmp_path / 'model.onnx'
    state = run.model.state_dict()
    layer = 'backbone.layer1.0.conv1.weight'
    torch.save({**state, layer: state[layer][:7]}, run.checkpoint)
    said = run('--out', out, *SIZE, code=1)
    assert said.startswith(
        f'error: {run.checkpoint} does not fit the model of {run.config}: '
        'RuntimeError: '
    )
    assert f'size mismatch for {layer}' in said
    run.checkpoint.write_bytes(b'no checkpoint')
    said = run('--out', out, *SIZE, code=1)
    assert f'error: cannot load {run.checkpoint}' in said
    assert f'{out} was not written' in said
    assert not out.exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--opset', '9'], 'error: opset must be an integer of 11'),
        (
            ['--cfg-options', 'model.backbone.type=NoSuchNet'],
            r'error: .*: model cannot be built: KeyError: .*NoSuchNet is not',
        ),
    ],
)
def test_settings_that_make_no_sense(options, message, run, tmp_path):
    said = run('--out', tmp_path / 'model.onnx', *SIZE, *options, code=1)
    assert re.search(message, said)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = 3', r': model=3; expected the config of a training'),
        ('model = dict(', r' cannot be read as a config: SyntaxError: '),
    ],
)
def test_files_that_are_no_configs(text, message, run, tmp_path):
    config = tmp_path / 'other.py'
    config.write_text(text)
    said = run('--out', tmp_path / 'm.onnx', *SIZE, code=1, config=config)
    assert said.startswith(f'error: {config}{message}')


def test_out_is_checked_first(run, tmp_path):
    config = tmp_path / 'no_such_config.py'
    said = run('--out', run.checkpoint, *SIZE, code=1, config=config)
    assert 'is the checkpoint, which would be lost' in said


def test_a_dataset_given_as_a_class(run, tool):
    run.cfg.test_dataloader.dataset = dict(type=HMSACityscapesDataset)
    model = tool.load_model(run.cfg, str(run.checkpoint))
    found = model.dataset_meta['classes']
    assert found == HMSACityscapesDataset.METAINFO['classes']
