"""A trained model to a file for deployment."""

import errno
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
def run(load_tool, tmp_path, build_lively, tiny_model_cfg, capsys):
    """Return a function that runs the tool on a tiny model."""
    tool = load_tool('export.py')
    dataset = dict(
        type='HMSACityscapesDataset',
        metainfo=dict(classes=CLASSES, palette=PALETTE),
    )
    cfg = Config(
        dict(
            custom_imports=dict(imports=['hmsa_mmseg']),
            default_scope='mmseg',
            model=tiny_model_cfg(),
            test_dataloader=dict(dataset=dataset),
        )
    )

    def run(*args, code=0):
        args = [str(run.config), str(run.checkpoint), *map(str, args)]
        assert tool.main(args) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    run.cfg, run.tool, run.model = cfg, tool, build_lively()
    run.config = tmp_path / 'config.py'
    run.checkpoint = tmp_path / 'model.pth'
    cfg.dump(run.config)
    torch.save(dict(state_dict=run.model.state_dict()), run.checkpoint)
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


@pytest.mark.fault(
    'a checkpoint that does not fit or is damaged: export',
    'refused, with path and key; nothing is written',
)
def test_checkpoints_that_do_not_fit(run, tmp_path):
    out = tmp_path / 'model.onnx'
    state = run.model.state_dict()
    layer = 'backbone.layer1.0.conv1.weight'
    torch.save({**state, layer: state[layer][:7]}, run.checkpoint)
    said = run('--out', out, *SIZE, code=1)
    assert f'{run.checkpoint} does not fit the model of {run.config}' in said
    assert f'size mismatch for {layer}' in said
    run.checkpoint.write_bytes(b'no checkpoint')
    said = run('--out', out, *SIZE, code=1)
    assert f'error: cannot load {run.checkpoint}' in said
    assert f'{out} was not written' in said
    assert not out.exists()


@pytest.mark.parametrize(
    ('options', 'config', 'message'),
    [
        (['--opset', '9'], None, 'error: opset must be an integer of 11'),
        (
            ['--cfg-options', 'model.backbone.type=NoSuchNet'],
            *(None, r'model cannot be built: KeyError: .*NoSuchNet is not'),
        ),
        ([], 'model = 3', r'config\.py: model=3; expected the config of a'),
        ([], 'model = dict(', r'config\.py cannot be read .*: SyntaxError'),
    ],
)
def test_settings_that_make_no_sense(options, config, message, run, tmp_path):
    if config:
        run.config.write_text(config)
    said = run('--out', tmp_path / 'model.onnx', *SIZE, *options, code=1)
    assert re.search(message, said)


@pytest.mark.fault(
    'the disk is full while a model is exported',
    'an error with the path; no file is left',
)
def test_a_full_disk(run, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    out = tmp_path / 'made/model.onnx'
    said = run('--out', out, *SIZE, code=1)
    assert f"No space left on device: '{out}'" in said
    assert not list(out.parent.iterdir())


def test_out_is_checked_first(run):
    run.config = 'no_such_config.py'
    said = run('--out', run.checkpoint, *SIZE, code=1)
    assert 'is the checkpoint, which would be lost' in said


def test_a_dataset_given_as_a_class(run):
    run.cfg.test_dataloader.dataset = dict(type=HMSACityscapesDataset)
    model = run.tool.load_model(run.cfg, str(run.checkpoint))
    found = model.dataset_meta['classes']
    assert found == HMSACityscapesDataset.METAINFO['classes']
