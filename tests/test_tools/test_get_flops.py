"""Operations are counted as they are computed, by fast paths as well."""

import json
import math

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hmsa_mmseg.analysis.complexity import complexity
from hmsa_mmseg.utils.loading import build_model

TOOL = 'analysis_tools/get_flops.py'
SIZE = (64, 128)


class LiteralCount(TorchDispatchMode):
    """Formulas written out, on a run with values."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if 'convolution' in name:
            # Each output value: in_channels / groups * kernel multiply-adds.
            self.flops += 2 * out.numel() * math.prod(args[1].shape[1:])
        elif name in ('mm', 'bmm'):
            self.flops += 2 * out.numel() * args[0].shape[-1]
        elif name in ('addmm', 'baddbmm'):
            self.flops += 2 * out.numel() * args[1].shape[-1]
        return out


def literal(function):
    with torch.no_grad(), LiteralCount() as count:
        function()
    return count.flops


@pytest.fixture
def stock_file(tmp_path, tiny_model_cfg):
    """Write a config of mmseg's own model, with an auxiliary head."""
    head = tiny_model_cfg()['decode_head']['seg_head']
    model = tiny_model_cfg(
        type='EncoderDecoder',
        auxiliary_head=dict(head, in_channels=8, in_index=0),
        test_cfg=dict(mode='whole'),
    )
    model.update(decode_head=head, train_cfg=dict())
    imports = dict(imports=['hmsa_mmseg'])
    Config(dict(custom_imports=imports, model=model)).dump(
        tmp_path / 'tiny.py'
    )
    return tmp_path / 'tiny.py'


def test_stock_fails(stock_is_broken, stock_file):
    stock_is_broken(
        *(TOOL, stock_file, '--shape', *SIZE),
        error=ValueError,
        match='cannot be both set',
    )


def test_a_model_of_mmseg(load_tool, stock_file, tmp_path, capsys):
    out = tmp_path / 'flops.json'
    args = [str(stock_file), '--shape', '64', '--out', str(out)]
    args += ['--cfg-options', 'model.decode_head.channels=12']
    assert load_tool(TOOL).main(args) == 0
    found = json.loads(out.read_text())
    assert found['size'] == [64, 64]
    assert found['device'] == 'meta'

    # Independently: mmengine's count, of multiply-adds, from a trace.
    cfg = Config.fromfile(stock_file)
    cfg.merge_from_dict({'model.decode_head.channels': 12})
    del cfg.model['auxiliary_head']
    model = build_model(cfg)
    analyzer = FlopAnalyzer(model, torch.zeros(1, 3, 64, 64))
    analyzer.unsupported_ops_warnings(False)
    assert found['macs'] == analyzer.by_operator()['conv']
    assert found['flops'] == 2 * found['macs']
    params = sum(param.numel() for param in model.parameters())
    assert found['params'] == params
    said = capsys.readouterr().out
    assert f'MACs: {found["macs"] / 1e6:.3f} M (multiply-adds' in said
    assert f'FLOPs: {found["flops"] / 1e6:.3f} M (two for each' in said


def test_fast_paths_of_several_scales(config_file):
    cfg = Config.fromfile(config_file)
    pyramid = dict(in_channels=[8, 16], in_index=[0, 1])
    pyramid.update(input_transform='resize_concat')
    for head in cfg.model.decode_head.seg_head:
        head.update(pyramid)
    cfg.model.decode_head.seg_head[0].update(kernel_size=1, concat_input=False)
    image = torch.randn(1, 3, *SIZE)
    counts = {}
    for fast in (True, False):
        cfg.model.decode_head.fast = fast
        model = build_model(cfg)
        counts[fast] = complexity(model, SIZE).flops
        expected = literal(lambda model=model: model.encode_decode(image))
        assert counts[fast] == expected
    assert counts[True] < counts[False]
    # The three scales cost 0.25 + 1 + 4 times what the middle one does.
    backbone = literal(lambda: model.backbone(image))
    assert counts[False] > 5.25 * backbone


def test_windows_and_padding(
    config_file, load_tool, tmp_path, capsys, stock_file
):
    cfg = Config.fromfile(config_file)
    cfg.model.test_cfg = dict(
        mode='slide', crop_size=(40, 64), stride=(30, 40), scales=(0.5, 1.0)
    )
    path = tmp_path / 'slide.py'
    cfg.dump(path)
    assert load_tool(TOOL).main([str(path), '--shape', '64', '128']) == 0
    assert 'Windows: 6, all counted' in capsys.readouterr().out
    model = build_model(cfg)
    # Each window counts in full, also where windows overlap.
    image = torch.randn(1, 3, *SIZE)
    expected = literal(lambda: model.slide_inference(image, [{}]))
    assert complexity(model, SIZE).flops == expected

    cfg = Config.fromfile(stock_file)
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    model = build_model(cfg)
    found = complexity(model, (50, 60))
    assert found.padded_size == (64, 64)
    assert found.flops == complexity(model, (64, 64)).flops


class ReadsValues(nn.Module):
    """Runs on no device without values, and attends as transformers do."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def data_preprocessor(self, data, training):
        return dict(data, inputs=torch.stack(data['inputs']).float())

    def predict(self, inputs, data_samples):
        inputs.mean().item()
        tokens = inputs.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)


def test_attention_on_a_device_with_values():
    found = complexity(ReadsValues(), (4, 8))
    assert found.device == 'cpu'
    # Of 32 tokens of 3 channels: three projections and one after them, and
    # two products with the 32 x 32 weights.
    assert found.macs == 4 * 32 * 3 * 3 + 2 * 32 * 32 * 3


def test_errors(load_tool, stock_file, capsys):
    tool = load_tool(TOOL)
    assert tool.main(['no_such_config']) == 1
    assert 'no_such_config is neither' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([str(stock_file), '--shape', '1', '2', '3'])
    assert '--shape: expected one or two' in capsys.readouterr().err
