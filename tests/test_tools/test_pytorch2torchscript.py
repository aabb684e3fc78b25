"""TorchScript files, of models of this package and of mmseg."""

import pytest
import torch
from mmengine.config import Config

from hmsa_mmseg.export import ExportError
from hmsa_mmseg.export.encoder_decoders import export_encoder_decoder
from hmsa_mmseg.utils.loading import build_model, load_model

TOOL = 'deployment/pytorch2torchscript.py'
SIZE = (40, 56)
SHAPE = ['--shape', '40', '56']


@pytest.fixture
def tool(load_tool):
    return load_tool(TOOL)


@pytest.fixture
def written(config_file, tmp_path):
    """Return a function that writes a config and a checkpoint of it."""

    def write(change=lambda cfg: None):
        cfg = Config.fromfile(config_file)
        change(cfg)
        path = tmp_path / 'config.py'
        cfg.dump(path)
        model = build_model(cfg.copy())
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
        return str(path), str(tmp_path / 'a.pth')

    return write


def cascade(cfg):
    """Make it mmseg's own OCRNet, with an auxiliary head."""
    heads = cfg.model.decode_head.seg_head
    auxiliary = dict(heads[0], in_channels=8, in_index=0)
    cfg.model.update(
        type='CascadeEncoderDecoder',
        num_stages=2,
        auxiliary_head=auxiliary,
        test_cfg=dict(mode='whole'),
    )
    cfg.model.decode_head = heads


def single(cfg):
    """Make it mmseg's own FCN, tested in windows."""
    cfg.model.decode_head = cfg.model.decode_head.seg_head[0]
    cfg.model.update(
        type='EncoderDecoder',
        test_cfg=dict(mode='slide', crop_size=SIZE, stride=(20, 20)),
    )


def test_stock_fails(stock_is_broken, config_file):
    stock_is_broken(
        *(TOOL, config_file, *SHAPE),
        error=AssertionError,
        match='test_cfg specified in both',
    )


@pytest.mark.parametrize('change', [None, cascade, single])
def test_the_file_predicts_what_the_model_does(
    change, tool, written, tmp_path, capsys
):
    config, checkpoint = written(change or (lambda cfg: None))
    out = tmp_path / 'out' / 'model.pt'
    args = [config, '--checkpoint', checkpoint, '--output-file', str(out)]
    args += [*SHAPE, '--verify'] + (['--show'] if change is single else [])
    assert tool.main(args) == 0
    said = capsys.readouterr().out
    assert 'verified: 1 x 40 x 56: ' in said
    assert ("'slide' is not part of the file" in said) == (change is single)
    assert ('aten::_convolution' in said) == (change is single)

    model = load_model(Config.fromfile(config), checkpoint)
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        expected = model.encode_decode(image, [dict(img_shape=SIZE)])
        found = torch.jit.load(str(out))(image)
    assert found.shape == (1, 19, *SIZE)
    assert expected.std() > 0
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-4 * scale
    # Sizes are constants of the file.
    with pytest.raises(Exception, match='exported for images 40 high'):
        torch.jit.load(str(out))(image[..., :-8, :])


def test_without_a_checkpoint(tool, written, tmp_path, capsys):
    config, _ = written(single)
    out = tmp_path / 'model.pt'
    args = [config, '--output-file', str(out), '--shape', '32']
    first = []
    for _ in range(2):
        assert tool.main(args) == 0
        first.append(torch.jit.load(str(out))(torch.ones(1, 3, 32, 32)))
    assert torch.equal(*first)
    assert 'the weights are random' in capsys.readouterr().out


def test_errors_leave_what_was_there(tool, written, tmp_path, capsys):
    config, checkpoint = written()
    out = tmp_path / 'model.pt'
    out.write_text('before')
    args = [config, '--checkpoint', checkpoint, '--output-file', str(out)]
    slide = ['model.test_cfg.mode=slide', 'model.test_cfg.crop_size=(32,32)']
    slide += ['model.test_cfg.stride=(16,16)']
    assert tool.main([*args, *SHAPE, '--cfg-options', *slide]) == 1
    said = capsys.readouterr().err
    assert "error: model.test_cfg.mode='slide' cannot be exported" in said
    assert f'{out} was not written' in said
    args[-1] = checkpoint
    assert tool.main([*args, *SHAPE]) == 1
    assert 'is the checkpoint, which would be lost' in capsys.readouterr().err
    assert out.read_text() == 'before'


def test_a_file_that_differs_is_refused(written, tmp_path, monkeypatch):
    config, checkpoint = written(single)
    model = load_model(Config.fromfile(config), checkpoint)
    out = tmp_path / 'model.pt'
    monkeypatch.setattr(
        'hmsa_mmseg.export.encoder_decoders.load_torch',
        lambda path, format: lambda image: torch.zeros(1, 19, *SIZE),
    )
    with pytest.raises(ExportError, match='does not predict what the model'):
        export_encoder_decoder(model, out, SIZE)
    assert not [*tmp_path.glob('*model.pt*')]
    with pytest.raises(ExportError, match='Conv2d is no EncoderDecoder'):
        export_encoder_decoder(torch.nn.Conv2d(1, 1, 1), out, SIZE)
